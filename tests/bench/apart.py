"""An environment of its own for programs that only benchmarks need: the lock file's group `bench`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_VENV = _ROOT / ".bench" / "venv"
_INSTALLED_WITHIN = 600.0


class Failed(Exception):
    """A program did not do what it should; the text says what it said."""


def program(name: str) -> str:
    """One that the group brings."""
    return str(_VENV / "bin" / name)


async def install() -> None:
    """Bring the environment up to date. Raises Failed, OSError, TimeoutError."""
    command = ("sync", "--frozen", "--quiet", "--only-group", "bench")
    await _run(str(_ROOT / "hack" / "uv.sh"), *command, within=_INSTALLED_WITHIN)


async def run(name: str, *arguments: str, within: float) -> bytes:
    """Standard output of one of its programs. Raises Failed, OSError, TimeoutError."""
    return await _run(program(name), *arguments, within=within)


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
