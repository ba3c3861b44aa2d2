"""The check that a cluster leaves nothing behind on the machine.

Other clusters may come and go on the same machine meanwhile, so every finding is tied to ours: by process,
interface number, control group or path; and where things carry no owner, by comparison with what was there
before the boot.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import Cluster
from hack.cluster.identity import Process, host_pids
from hack.cluster.network import index
from hack.cluster.packages import SEARCH

#: Chains and interfaces as kube-proxy, CNI plugins and kubelets name them.
_CHAIN = re.compile(r"^:((?:KUBE|CNI)-\S+)", re.MULTILINE)
_INTERFACE = re.compile(r"pods\d+|cni\d+|kube-.*|flannel.*")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """The firewall chains and interfaces of the machine, at one moment."""

    chains: frozenset[str]
    interfaces: frozenset[str]

    @staticmethod
    def now() -> Machine:
        """Read the machine's own network namespace."""
        names = frozenset(path.name for path in Path("/sys/class/net").iterdir())
        return Machine(
            frozenset(_chains("iptables-save") | _chains("ip6tables-save")),
            frozenset(name for name in names if _INTERFACE.fullmatch(name)),
        )


@dataclass(frozen=True)
class Belongings:
    """Processes, files and interfaces of one cluster; recorded while it runs."""

    state: Path
    processes: frozenset[Process]
    interface: str
    number: int
    cgroup: str

    @staticmethod
    def of(cluster: Cluster) -> Belongings:
        """Everything that this cluster has on the machine now."""
        pids = [cluster.init.pid, *host_pids(cluster.init).values()]
        processes = frozenset(process for pid in pids if (process := Process.of(pid)))
        interface, number = cluster.facts["interface"]
        return Belongings(cluster.state_dir, processes, interface, number, cluster.facts["cgroup"])

    def left(self, before: Machine) -> list[str]:
        """Leftovers after the cluster was taken down."""
        found = [f"process {process.pid}" for process in self.processes if process.alive]
        found += [f"process {pid} ({line})" for pid, line in _command_lines() if str(self.state) in line]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount {line}" for line in mounts if str(self.state) in line]
        if index(self.interface) == self.number:
            found.append(f"interface {self.interface}")
        hierarchies = [_CGROUPS, *(path for path in _CGROUPS.iterdir() if path.is_dir())]
        found += [f"control group {path}" for root in hierarchies if (path := root / self.cgroup).exists()]
        now = Machine.now()
        found += [f"firewall chain {name}" for name in sorted(now.chains - before.chains)]
        found += [f"interface {name}" for name in sorted(now.interfaces - before.interfaces)]
        return found


def _chains(program: str) -> set[str]:
    """Chains of the machine's firewall. A machine without the program has none of ours."""
    try:
        done = subprocess.run(
            [program], capture_output=True, text=True, timeout=30, check=False, env={"PATH": SEARCH}
        )
    except FileNotFoundError:
        return set()
    return set(_CHAIN.findall(done.stdout))


def _command_lines() -> list[tuple[int, str]]:
    """The pids and command lines of all other processes."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = entry.joinpath("cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            lines.append((int(entry.name), b" ".join(words).decode(errors="replace").strip()))
    return lines
