"""The identity of a process: whether a recorded process still lives.

Why: pids are reused. A cluster must never be taken for alive, nor a stranger
killed, because a number fits; a pid together with its start time is unique
until the next boot of the machine.
"""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    pid: int
    start: int  # clock ticks after the machine's boot

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The living process with this pid, if there is one."""
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                # The command, in parentheses, may itself contain anything.
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def end(self, number: signal.Signals, seconds: float) -> bool:
        """Sends the signal and waits; whether the process is gone."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def host_pids(init: Process) -> dict[int, int]:
    """The processes of the PID namespace whose process 1 is `init`: pid inside → pid here."""
    namespace = os.readlink(f"/proc/{init.pid}/ns/pid")
    found: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{entry}/ns/pid") != namespace:
                continue
            with open(f"/proc/{entry}/status", encoding="utf-8", errors="replace") as file:
                inner = next(line for line in file if line.startswith("NSpid:")).split()[-1]
        except (OSError, StopIteration):
            continue
        found[int(inner)] = int(entry)
    return found
