"""Makes the namespaces in which one cluster lives, and becomes its process 1.

Why: a node mounts, bridges and filters all over the machine it runs on. In
namespaces of its own it can do so without touching the machine, two clusters
cannot meet, and the death of process 1 removes everything at once.

It runs alone (no import of this package), in the state folder:
`namespaces.py FOLDER… -- COMMAND…` prints the pid of the new process 1, which
then turns into the command. The folders stay visible whatever is mounted.
"""

import ctypes
import os
import socket
import sys
from pathlib import Path

CLONE = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000, "net": 0x40000000}
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 4096, 16384, 1 << 18, 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)

# What containerd, CNI and the kubelet write outside the folders that their
# settings can name.
PRIVATE_FOLDERS = {"/var/lib": "node/lib", "/var/log": "node/log"}

# The kubelet wants these values and would set them for the whole machine. It
# finds them set, and leaves the machine alone.
TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# How many processors the kubelet counts at least. Its node must admit many
# small pods at once whatever they request; what they get is decided by the
# machine, whose processors they share.
PROCESSORS = 32


def main() -> None:
    split = sys.argv.index("--")
    keep, command = [Path(folder) for folder in sys.argv[1:split]], sys.argv[split + 1 :]
    unshare(sum(CLONE.values()))
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        os._exit(0)
    # The launcher reads that pid until the end of the stream.
    os.dup2(2, 1)
    make_mounts(Path.cwd(), keep)
    os.execv(command[0], command)


def make_mounts(state_dir: Path, keep: list[Path]) -> None:
    mount(None, "/", None, MS_REC | MS_PRIVATE)  # nothing of ours reaches the host
    # Folders that a mount below would hide are held open, and put back after.
    shadows = [*PRIVATE_FOLDERS, "/run"]
    hidden = [path for path in (state_dir, *keep) if any(path.is_relative_to(folder) for folder in shadows)]
    held = {path: os.open(path, os.O_PATH) for path in hidden}
    root = os.open(state_dir, os.O_PATH)
    cgroups = os.open("/sys/fs/cgroup", os.O_PATH)

    mount("proc", "/proc", "proc", 0)
    mount("sysfs", "/sys", "sysfs", 0)
    mount(f"/proc/self/fd/{cgroups}", "/sys/fs/cgroup", None, MS_BIND | MS_REC)
    mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    for target, source in PRIVATE_FOLDERS.items():
        folder = Path(f"/proc/self/fd/{root}", source)
        folder.mkdir(parents=True, exist_ok=True)
        mount(str(folder), target, None, MS_BIND)
    for path, descriptor in held.items():
        path.mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", str(path), None, MS_BIND | MS_REC)
    os.chdir(state_dir)
    for tunable, value in TUNABLES.items():
        copy = Path("/run/tunables", tunable)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(value + "\n")
        mount(str(copy), f"/proc/sys/{tunable}", None, MS_BIND)
    pretend_processors(PROCESSORS)
    # The kubelet's mounts must reach the containers.
    mount(None, "/", None, MS_REC | MS_SHARED)
    socket.sethostname("node-1")


def pretend_processors(wanted: int) -> None:
    real = os.cpu_count() or 1
    nodes = Path("/sys/devices/system/node")
    if real >= wanted or not nodes.exists():
        return
    # The kubelet adds up the processors of all memory nodes, but pins pods to
    # processors by number: so the real ones are listed several times.
    mount("tmpfs", str(nodes), "tmpfs", 0, "mode=755")
    for node in range(-(-wanted // real)):
        for number in range(real):
            topology = nodes / f"node{node}" / f"cpu{number}" / "topology"
            topology.mkdir(parents=True)
            (topology / "core_id").write_text(f"{number}\n")
            (topology / "physical_package_id").write_text("0\n")


def unshare(flags: int) -> None:
    if LIBC.unshare(flags) != 0:
        fail("unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    if LIBC.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        fail(f"mount {source or ''} on {target}")


def fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
