"""Resources that processes have used, as counted by the kernel in /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


def cpu_ms(pid: int) -> float:
    """CPU that a process, and those of its children that have ended, have used; 0 if it is gone."""
    try:
        # The fields come after the name, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) * _TICK_MS


def tree_cpu_ms(pid: int) -> float:
    """CPU time of a process with all its living descendants, in ms."""
    return cpu_ms(pid) + sum(map(tree_cpu_ms, children(pid)))


def children(pid: int) -> list[int]:
    """Pids of the children of a process."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of a process now, and at its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.partition(":")[::2] for line in status.splitlines())
    return {
        "rss": round(int(lines["VmRSS"].split()[0]) / 1024, 1),
        "peak": round(int(lines["VmHWM"].split()[0]) / 1024, 1),
    }


def machine_busy_ms() -> float:
    """CPU that the whole machine has used, all cores together, what was stolen from it included."""
    user, nice, system, _, _, interrupts, soft, stolen = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    )
    return (user + nice + system + interrupts + soft + stolen) * _TICK_MS


class CpuMeter:
    """CPU by component between `start` and `stop`; what is nobody's in the rig goes to `others`."""

    def __init__(self, pids: Callable[[], Mapping[str, Iterable[int]]]) -> None:
        """`pids`: the roots of the process trees of each component, now."""
        self._pids = pids
        self._before: dict[str, float] = {}
        self._busy = 0.0

    def start(self) -> None:
        self._before, self._busy = self._read(), machine_busy_ms()

    def stop(self) -> dict[str, float]:
        """Milliseconds by component."""
        after, busy = self._read(), machine_busy_ms()
        used = {name: max(0.0, after[name] - self._before.get(name, 0.0)) for name in after}
        used["others"] = max(0.0, busy - self._busy - sum(used.values()))
        return used

    def _read(self) -> dict[str, float]:
        used = {name: sum(map(tree_cpu_ms, pids)) for name, pids in self._pids().items()}
        # Of this process alone: all others here are its children.
        return {**used, "bench": time.process_time() * 1000}
