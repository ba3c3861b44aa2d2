"""Environments of their own: for programs that only benchmarks need, and for what is measured.

The first has the lock file's group `bench`. The second is the product as its image has it, Python included: a
developer's checkout may have an older one, on which the same work takes up to a third longer.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hack.cluster.imaging.common import PYTHON

_ROOT = Path(__file__).resolve().parents[2]
_VENV = _ROOT / ".bench" / "venv"
_PRODUCT = _ROOT / ".bench" / "product"
_INSTALLED_WITHIN = 600.0


class Failed(Exception):
    """A program did not do what it should; the text says what it said."""


def program(name: str) -> str:
    """One that the group brings."""
    return str(_VENV / "bin" / name)


async def install() -> None:
    """Bring the environment up to date. Raises Failed, OSError, TimeoutError."""
    await _sync(_VENV, "--only-group", "bench")


async def product() -> Path:
    """The product's environment: its programs lie in `bin`.

    It has the image's Python, if this machine has that or uv can fetch it, else that of this process. Raises
    Failed, OSError, TimeoutError.
    """
    for interpreter in (*_interpreters(), PYTHON):
        try:
            await _sync(_PRODUCT, "--no-dev", "--python", interpreter)
        except Failed:
            continue
        return _PRODUCT
    return Path(sys.prefix)


def _interpreters() -> Iterator[str]:
    """Those of the image's version, wherever they are looked for: on the path, and under pyenv."""
    found = shutil.which(f"python{PYTHON}")
    # pyenv's stand-in lies on the path whether that version is chosen or not.
    if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
        yield found
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from (str(path) for path in sorted(versions.glob(f"{PYTHON}.*/bin/python{PYTHON}"), reverse=True))


async def run(name: str, *arguments: str, within: float) -> bytes:
    """Standard output of one of its programs. Raises Failed, OSError, TimeoutError."""
    return await _run(program(name), *arguments, within=within)


async def _sync(environment: Path, *options: str) -> None:
    command = (str(_ROOT / "hack" / "uv.sh"), "sync", "--frozen", "--quiet", *options)
    await _run(*command, within=_INSTALLED_WITHIN, environment=environment)


async def _run(*command: str, within: float, environment: Path = _VENV) -> bytes:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {"UV_PROJECT_ENVIRONMENT": str(environment)}
    variables.pop("VIRTUAL_ENV", None)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_ROOT,
        env=variables,
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
