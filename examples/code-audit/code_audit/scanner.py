"""Scan of one file of the standard library with bandit."""

from __future__ import annotations

import asyncio
import json
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from code_audit.errors import BadInput

#: Seconds for one file. The largest of the standard library takes two on an idle core.
SCAN_DEADLINE = 300.0
#: Length of a rule's text, in characters; the rest is cut.
MAX_TEXT = 100

Finding = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Report of bandit on one file. `skipped`: why bandit could not examine the file."""

    findings: tuple[Finding, ...]
    #: Meaning of the findings' tests, by id. Not repeated in each finding, so that a batch's output stays
    #: small enough for the status of its AgentTask.
    rules: dict[str, str]
    seconds: float
    skipped: str = ""


def library() -> Path:
    """The folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def check_names(files: object) -> list[str]:
    """The batch, without repetitions. Raises BadInput, naming the entry, for what is not a library file."""
    if not isinstance(files, list) or not files:
        raise BadInput("files must be a list of paths within the standard library, such as http/client.py")
    for position, name in enumerate(files):
        if not isinstance(name, str):
            raise BadInput(f"files[{position}]: {name!r} is not a path within the standard library")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadInput(f"files[{position}]: {name!r} is not a path within the standard library")
        if not (library() / name).is_file():
            raise BadInput(
                f"files[{position}]: {name} is not in the standard library of this image ({library()})"
            )
    return list(dict.fromkeys(files))


async def scan(file: str, *, deadline: float = SCAN_DEADLINE) -> Scan:
    """Examine one file, in a process of its own: bandit would block the event loop, and heartbeats with it.

    Raises RuntimeError if bandit fails, TimeoutError if it takes longer than `deadline` seconds.
    """
    started = time.monotonic()
    bandit = (sys.executable, "-m", "bandit", "--format", "json", "--quiet", "--exit-zero")
    process = await asyncio.create_subprocess_exec(
        *bandit,
        str(library() / file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(deadline):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"bandit failed on {file}: {errors.decode(errors='replace')[-500:]}")
    return read_output(json.loads(output), file=file, seconds=time.monotonic() - started)


def read_output(output: dict[str, Any], *, file: str, seconds: float) -> Scan:
    """bandit's JSON report on one file, without the parts that no later step reads."""
    findings = tuple(
        {
            "file": file,
            "line": result["line_number"],
            "test": result["test_id"],
            "severity": result["issue_severity"],
            "confidence": result["issue_confidence"],
        }
        for result in output["results"]
    )
    rules = {result["test_id"]: shorten(result["issue_text"]) for result in output["results"]}
    skipped = "; ".join(shorten(error["reason"]) for error in output["errors"])
    return Scan(findings=findings, rules=rules, seconds=round(seconds, 2), skipped=skipped)


def shorten(text: str) -> str:
    """The text on one line, cut to MAX_TEXT characters."""
    words = " ".join(text.split())
    return words if len(words) <= MAX_TEXT else words[: MAX_TEXT - 1] + "…"


def names(entries: Sequence[Finding]) -> list[str]:
    """The files of findings or journal entries, each once, in order."""
    return list(dict.fromkeys(entry["file"] for entry in entries))
