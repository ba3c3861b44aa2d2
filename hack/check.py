"""The inner loop of a contributor, `make check`: style, types and the tests of the pure core, all at once.

Each check runs as a process of its own. The report names every check with its seconds; the output of a check
is printed only if the check fails. Arguments name other tests than the pure core's:

    python hack/check.py [TEST…]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
BIN: Final = Path(sys.executable).parent

#: The pure core: decisions, expressions, admission, schedules. These tests need no I/O and no other process.
TESTS: Final = ("tests/unit/domain",)
#: Fewer examples of each property than in `make test-unit`; tests/unit/conftest.py has the profile.
ENVIRONMENT: Final = {**os.environ, "HYPOTHESIS_PROFILE": "check"}
#: Seconds after which a check that hangs is ended and counts as failed.
DEADLINE: Final = 300.0


class Check(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float


def _start(name: str, *command: str) -> Check:
    output = tempfile.TemporaryFile()  # noqa: SIM115 (read when the process has ended)
    process = subprocess.Popen(
        [str(BIN / command[0]), *command[1:]], cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output
    )
    return Check(name, process, output, time.monotonic())


def _report(check: Check, seconds: float) -> bool:
    passed = check.process.returncode == 0
    print(f"{seconds:6.1f} s  {check.name:18} {'passed' if passed else 'FAILED'}", flush=True)
    if not passed:
        check.output.seek(0)
        print(check.output.read().decode(errors="replace"), flush=True)
    return passed


def main(tests: list[str]) -> int:
    begin = time.monotonic()
    running = [
        _start("ruff check", "ruff", "check", "--quiet", "."),
        _start("ruff format", "ruff", "format", "--check", "--quiet", "."),
        _start("mypy", "mypy"),
        _start("pytest", "pytest", "-q", "--no-header", "-n", "2", "--dist", "worksteal", *(tests or TESTS)),
    ]
    failed = 0
    try:
        while running:
            for check in [check for check in running if check.process.poll() is not None]:
                running.remove(check)
                failed += not _report(check, time.monotonic() - check.started)
            if time.monotonic() - begin > DEADLINE:
                print(f"not finished within {DEADLINE:.0f} s: {', '.join(check.name for check in running)}")
                return 1
            time.sleep(0.02)
    finally:
        for check in running:
            check.process.terminate()
            check.process.wait()
    print(f"{time.monotonic() - begin:6.1f} s  in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
