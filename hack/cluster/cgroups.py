"""The control groups under which a cluster's pods run.

Why: the kernel keeps them when all processes are gone; and the kubelet wants
one of its own, or it would share `/kubepods` with any other kubelet here.
"""

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

from .errors import ClusterError
from .identity import Process

ROOT = Path("/sys/fs/cgroup")
_NAME = re.compile(r"perdure-(\d+)-(\d+)")


def name_for(owner: Process) -> str:
    return f"perdure-{owner.pid}-{owner.start}"


def unified() -> bool:
    """Whether the machine has version 2 only."""
    return (ROOT / "cgroup.controllers").exists()


def create(name: str) -> None:
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ClusterError(
                f"Cannot make a control group ({error}). Inside a container, that needs a privileged one."
            ) from error
        # A new cpuset is empty, and no process can enter an empty cpuset.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            with suppress(OSError):
                (folder / setting).write_text((hierarchy / setting).read_text())
        # All pods together weigh as much as the machine, not as one process.
        with suppress(OSError):
            (folder / "cpu.shares").write_text(str(1024 * (os.cpu_count() or 1)))
    if unified():
        for controller in (ROOT / "cgroup.controllers").read_text().split():
            for folder in (ROOT, ROOT / name):
                with suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def sweep() -> list[str]:
    """Removes the control groups of dead owners; returns what could not be removed."""
    if os.geteuid() != 0:
        return []  # only root made any
    stayed = []
    for hierarchy in _hierarchies():
        for folder in hierarchy.glob("perdure-*"):
            found = _NAME.fullmatch(folder.name)
            if found and not Process(int(found[1]), int(found[2])).alive and not _remove(folder):
                stayed.append(f"control group {folder}")
    return stayed


def _remove(tree: Path) -> bool:
    # A control group is busy for a moment after its last process has died.
    deadline = time.monotonic() + 5
    while tree.exists():
        for folder, _, _ in os.walk(tree, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        if not tree.exists():
            break
        if time.monotonic() > deadline:
            return False
        _kill_members(tree)
        time.sleep(0.02)
    return True


def _kill_members(tree: Path) -> None:
    for members in tree.rglob("cgroup.procs"):
        with suppress(OSError):
            for pid in map(int, members.read_text().split()):
                if pid:  # 0 stands for a process that is not visible from here
                    os.kill(pid, signal.SIGKILL)


def _hierarchies() -> list[Path]:
    if unified():
        return [ROOT]
    # `cpu,cpuacct` is one hierarchy with links to it from `cpu` and `cpuacct`.
    found = [folder for folder in ROOT.iterdir() if not folder.is_symlink()] if ROOT.is_dir() else []
    return [folder for folder in found if (folder / "cgroup.procs").exists()]
