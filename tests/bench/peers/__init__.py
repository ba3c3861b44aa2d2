"""Others that save state in Postgres, measured on the same server, each in a process of its own.

They are installed into an environment of their own, by the lock file's group `bench`: nobody else who uses
Perdure needs them. What they do is less than a step of ours, as they have no pods; see docs/performance.md.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson

from tests.bench.figures import Result
from tests.bench.rig import Rig
from tests.bench.say import say

_ROOT = Path(__file__).resolve().parents[3]
_VENV = _ROOT / ".bench" / "venv"
_HERE = Path(__file__).parent
_PEERS = {
    "langgraph-checkpoint-postgres": _HERE / "langgraph_saver.py",
    "dbos": _HERE / "dbos_steps.py",
}


class Failed(Exception):
    """A program did not do what it should; the text says what it said."""


async def compare(rig: Rig, result: Result, *, steps: int) -> None:
    """Add the peers' figures, or a note that says why there are none."""
    try:
        say("installing the peers")
        await _run(
            str(_ROOT / "hack" / "uv.sh"), "sync", "--frozen", "--quiet", "--only-group", "bench", within=600
        )
        for name, program in _PEERS.items():
            say(f"{name}: {steps} steps of each size")
            url = await rig.postgres.create_database()
            found = orjson.loads(
                await _run(str(_VENV / "bin" / "python"), str(program), url, str(steps), within=600)
            )
            _add(result, name, found)
    except (Failed, OSError, TimeoutError) as error:
        result.notes.append(f"The peers were not measured: {error}")


def _add(result: Result, name: str, found: dict[str, Any]) -> None:
    result.details.setdefault("peers", {})[name] = found["version"]
    for label, seconds in found["samples"].items():
        result.add_samples(f"{name} {found['version']}: {label}", seconds)
    for label, value in found.get("rates", {}).items():
        result.add(f"{name} {found['version']}: {label}", value, "/s")


async def _run(*command: str, within: float) -> bytes:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"UV_PROJECT_ENVIRONMENT": str(_VENV)}
    environment.pop("VIRTUAL_ENV", None)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within):
            output, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Failed(f"{command[0]}: {error.decode(errors='replace').strip()[-500:]}")
    return output
