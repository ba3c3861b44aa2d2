"""Helpers of the image builder: paths, progress, locks, hashes and running programs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RECIPES = Path(__file__).resolve().parents[1] / "image_recipes"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "images"

BASE = "docker.io/library/python:3.13-slim"
PYTHON = "3.13"
OPERATOR_TAG = "perdure/perdure:dev"
EXAMPLE_TAG = "perdure/code-audit:dev"
EXAMPLE_CONTEXT = Path("examples/code-audit")

# To be raised when the output of this program for the same recipe or context changes.
FORMAT = 1
# One fixed time in what this file packs: the same inputs then give the same digests, and a cluster unpacks
# each layer once. (Not in first layers: Python believes its compiled files only while they are dated like
# their sources.)
EPOCH = 1_767_225_600
# Highest glibc first, up to the one in Debian trixie; pip takes the list literally.
GLIBC_MINORS = (*range(41, 16, -1), 12, 5)

KEY_LENGTH = 20
# Days for which an unused wheelhouse stays: several branches share a cache, each with its own lock file.
WHEELHOUSE_DAYS = 14

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Failure(Exception):
    """Something the person at the keyboard can put right; the message says how."""


def machine() -> str:
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if name not in ARCHITECTURES:
        raise Failure(
            f"no images for the architecture {name}: use a machine with one of {', '.join(ARCHITECTURES)}"
        )
    return name


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"


def shown(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    say(f"==> {text}")
    started = time.monotonic()
    yield
    say(f"    {time.monotonic() - started:.1f} s: {text}")


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """A lock per artifact: engineers and CI jobs share a cache."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"    waiting for another image_builder, which is building {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(
    command: Sequence[str | Path], *, stdin: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """The stdout of a command. On failure, the end of its output becomes part of the message."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(
                words,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        except FileNotFoundError:
            raise Failure(f"{words[0]} is not installed, or not on PATH") from None
        if done.returncode != 0:
            errors.seek(0)
            tail = "\n".join((done.stdout + errors.read()).splitlines()[-40:])
            raise Failure(
                f"this command failed with code {done.returncode}:\n  {shlex.join(words)}\n"
                f"and said last:\n{tail}"
            )
    return done.stdout


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(*parts: object) -> str:
    text = json.dumps([FORMAT, machine(), EPOCH, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` at the end: a killed process leaves no unfinished file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        unfinished = folder / path.name
        yield unfinished
        if path.is_dir():
            shutil.rmtree(path)
        unfinished.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_others(keep: Path, pattern: str) -> None:
    for path in keep.parent.glob(pattern):
        if path != keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def copy_or_link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
