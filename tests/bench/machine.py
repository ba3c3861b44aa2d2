"""The machine and the versions that a figure was measured on: without them it means nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.figures import quantile
from tests.support.waiting import until

#: Bytes of one write: a page of Postgres' log.
PAGE = 8192
#: Load average of a minute above which a machine is busy with something else.
QUIET = 0.5
_LIBRARIES = ("kopf", "aiohttp", "asyncpg", "nats-py", "orjson", "pydantic", "starlette", "uvicorn")
_REPOSITORY = Path(__file__).resolve().parents[2]


def machine_facts(directory: Path) -> dict[str, Any]:
    """Processor, memory, kernel, load; the disk is that of `directory`."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "load": list(os.getloadavg()),
        "fdatasync_ms": fdatasync_ms(directory),
    }


def version_facts(programs: dict[str, Path], *, python: Sequence[str]) -> dict[str, str]:
    """Versions of what is measured, of our libraries, and of the programs of the rig.

    `python`: how to start the interpreter that runs what is measured.
    """
    facts = {
        "perdure": _commit(),
        "python": _output(*python, "--version").removeprefix("Python ") or "unknown",
        **{name: version(name) for name in _LIBRARIES},
    }
    for name, path in programs.items():
        facts[name] = _output(path, "--version") or "unknown"
    return facts


def fdatasync_ms(directory: Path, *, times: int = 300) -> dict[str, float]:
    """Milliseconds of one write of 8 KiB with fdatasync, as a database's commit does it."""
    page = os.urandom(PAGE)
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        # A log file has its length from the start; growing one would measure the file system's journal.
        file.write(bytes(PAGE * times))
        file.flush()
        os.fsync(file.fileno())
        for position in range(times):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), page, position * PAGE)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1000)
    return {"p50": round(quantile(taken, 0.5), 3), "p99": round(quantile(taken, 0.99), 3)}


async def rested(*, within: float, load: Callable[[], float] = lambda: os.getloadavg()[0]) -> float:
    """Wait until the machine is quiet, seconds at most. Returns the load that it has then.

    What ran a moment ago, a test or another benchmark, is still part of the load of a minute.
    """
    with suppress(TimeoutError):
        await until(lambda: load() <= QUIET, within=within)
    return load()


def yardstick_ms() -> float:
    """CPU milliseconds that a fixed piece of Python takes now: the best of three.

    The same work costs more when others press on the caches and the clock; CPU times of two runs are to be
    compared by the ratio of their yardsticks.
    """
    document = [
        {"metadata": {"name": f"name-{number}", "labels": {"a": "b"}}, "status": {"phase": "Running"}}
        for number in range(2000)
    ]
    taken = []
    for _ in range(3):
        begun = time.process_time()
        text = json.dumps(document)
        for item in json.loads(text):
            item["status"] = {**item["status"], "name": item["metadata"]["name"]}
        taken.append((time.process_time() - begun) * 1000)
    return round(min(taken), 2)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    commit = _output("git", "-C", str(_REPOSITORY), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(_REPOSITORY), "status", "--porcelain", "--", "operator", "sdk")
    return f"{version('perdure')} {commit or 'unknown'}{' with changes' if changed else ''}"


def _output(program: Path | str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=10, check=False, env=_environment()
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/")}
