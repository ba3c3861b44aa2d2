"""Environments of their own: for programs that only benchmarks need, and for what is measured.

The first has the lock file's group `bench`. The second is the product as people run it: the files of its own
image, Python included. The interpreter of a developer's machine is often built without optimisation, and the
same work takes up to 1.6 times as long on it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from hack.cluster.image_builder.common import OPERATOR_TAG, PYTHON

from tests.bench.say import say

_ROOT = Path(__file__).resolve().parents[2]
_VENV = _ROOT / ".bench" / "venv"
_PRODUCT = _ROOT / ".bench" / "product"
_IMAGE = _ROOT / ".bench" / "image"
_INSTALLED_WITHIN = 600.0
_BUILT_WITHIN = 900.0
_found: dict[bool, Product] = {}


class Failed(Exception):
    """A program did not do what it should; the text says what it said."""


def program(name: str) -> str:
    """The path of a program that the group `bench` installs."""
    return str(_VENV / "bin" / name)


async def install() -> None:
    """Bring the environment up to date. Raises Failed, OSError, TimeoutError."""
    await _sync(_VENV, "--only-group", "bench")


@dataclass(frozen=True, slots=True)
class Product:
    """The measured product, installed."""

    #: Of the environment that its programs are in, seen from `root`.
    home: Path
    #: The root of the image's files; None if it uses this machine's.
    root: Path | None = None
    #: Variables that the image sets.
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, name: str) -> list[str]:
        """How to start one of its programs."""
        program = str(self.home / "bin" / name)
        return [program] if self.root is None else ["chroot", str(self.root), program]


async def product(*, image: bool) -> Product:
    """The product, from its image if `image` is wanted and can be built here.

    Otherwise an environment on this machine, with the image's version of Python if this machine has that or
    uv can fetch it, else that of this process. The search is made once. Raises Failed, OSError, TimeoutError.
    """
    if image not in _found:
        _found[image] = await _find(image=image)
    return _found[image]


async def _find(*, image: bool) -> Product:
    if image:
        try:
            return await _from_image()
        except (Failed, OSError) as error:
            say(f"measured without the image, which cannot be built here: {error}")
    for interpreter in (*_interpreters(), PYTHON):
        try:
            await _sync(_PRODUCT, "--no-dev", "--python", interpreter)
        except Failed:
            continue
        return Product(_PRODUCT)
    return Product(Path(sys.prefix))


async def _from_image() -> Product:
    """Build the image, if it is not there as the checkout would have it, and unpack it."""
    archive = _IMAGE / "perdure.tar"
    say("the image that is measured: built, unless nothing has changed")
    build = (
        str(_ROOT / "hack" / "cluster" / "image_builder"),
        "build",
        "--tag",
        OPERATOR_TAG,
        "--output",
        str(archive),
    )
    await _run(sys.executable, *build, within=_BUILT_WITHIN)
    id_ = orjson.loads(archive.with_suffix(".json").read_bytes())["id"]
    root = _IMAGE / id_[:20]
    unpacked = root / "files"
    if not root.exists():
        for old in _IMAGE.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=_IMAGE) as name:
            folder = Path(name)
            await _run("tar", "--extract", "--file", str(archive), "--directory", name, within=_BUILT_WITHIN)
            (manifest,) = orjson.loads((folder / "manifest.json").read_bytes())
            whole = folder / "whole"
            (whole / "files").mkdir(parents=True)
            shutil.copy(folder / manifest["Config"], whole / "config.json")
            for layer in manifest["Layers"]:
                into = str(whole / "files")
                await _run(
                    "tar",
                    "--extract",
                    "--file",
                    str(folder / layer),
                    "--directory",
                    into,
                    within=_BUILT_WITHIN,
                )
            # A container's runtime creates these files, too.
            (whole / "files" / "etc" / "hosts").touch()
            whole.rename(root)
    config = orjson.loads((root / "config.json").read_bytes())["config"]
    environment = dict(each.split("=", 1) for each in config["Env"])
    return Product(Path("/opt/perdure"), unpacked, environment)


def _interpreters() -> Iterator[str]:
    """Interpreters of the image's version: on the path, and under pyenv."""
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
