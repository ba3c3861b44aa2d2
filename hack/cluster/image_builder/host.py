"""The host's tools: Debian packages, uv and pip, each installed where it is missing."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .common import CACHE, GLIBC_MINORS, PYTHON, Failure, locked, machine, replacing, run, say, step


def need(*programs: str) -> None:
    """Debian names these packages like their programs."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    missing = [name for name in programs if shutil.which(name, path=search) is None]
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failure(
            f"missing: {', '.join(missing)}. On Debian or Ubuntu run\n"
            f"  sudo apt-get update && sudo {shlex.join(install)}"
        )
    with step(f"apt-get install {' '.join(missing)}"), locked("apt"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        try:
            run(["apt-get", "update"], environment=quiet)
        except Failure as failure:
            say(f"    going on with the package lists as they are: {str(failure).splitlines()[-1]}")
        run([*install[:2], "-o", "DPkg::Lock::Timeout=600", *install[2:]], environment=quiet)


@functools.cache
def private_tools() -> Path:
    """A venv with pip and uv, for a host without them: a system's own Python often refuses to install."""
    folder = CACHE / "tools"
    with locked("tools"):
        if not (folder / "bin" / "uv").exists():
            with step("uv and pip, into the cache"), replacing(folder) as unfinished:
                try:
                    run([sys.executable, "-m", "venv", unfinished])
                except Failure as failure:
                    raise Failure(f"{failure}\nOn Debian or Ubuntu: apt-get install python3-venv") from None
                # `python -m pip` and not the script, whose first line names the unfinished folder.
                run([unfinished / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"])
    return folder / "bin"


@functools.cache
def uv() -> str:
    return shutil.which("uv") or str(private_tools() / "uv")


@functools.cache
def pip() -> tuple[str, ...]:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return (sys.executable, "-m", "pip")
    return (str(private_tools() / "python"), "-m", "pip")


def download(target: Path, requirements: Sequence[str]) -> None:
    """Wheels for the image's Python, for any Python that runs this program."""
    # Four at a time: pip sends its requests to the index one after the other.
    batches = [batch for batch in (requirements[start::4] for start in range(4)) if batch]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(batches) or 1) as threads:
        lists = [Path(scratch) / f"{number}.txt" for number in range(len(batches))]
        for file, batch in zip(lists, batches, strict=True):
            file.write_text("\n".join(batch) + "\n")
        list(threads.map(functools.partial(download_list, target), lists))


def download_list(target: Path, requirements: Path) -> None:
    platforms = [f"--platform=manylinux_2_{minor}_{machine()}" for minor in GLIBC_MINORS]
    platforms += [
        f"--platform={old}_{machine()}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")
    ]
    try:
        run(
            [
                *pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp",
                f"--python-version={PYTHON}", *platforms, "--dest", target, "--requirement", requirements,
            ]
        )  # fmt: skip
    except Failure as failure:
        raise Failure(
            f"{failure}\nCheck the connection to the package index. A package without a wheel for CPython "
            f"{PYTHON} on {machine()} cannot be used: choose a version that has one."
        ) from None
