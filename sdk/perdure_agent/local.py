"""A task without a cluster: the same agent on a laptop, with a file for its checkpoint.

It behaves like one task of a real run: an agent that is interrupted or fails finds its checkpoint when it is
started again; one that gave its result starts afresh.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from perdure_agent.checkpoints import Checkpoint, encode_json


class LocalBackend:
    """Keeps the newest checkpoint in one file, and tells the terminal the rest."""

    def __init__(self, *, directory: Path, task: str, input_json: str | None) -> None:
        self._file = directory / f"{task}.checkpoint"
        self._input_json = input_json

    async def read_input(self) -> Any:
        """`PERDURE_INPUT`, or {}."""
        if self._input_json is None:
            return {}
        try:
            return json.loads(self._input_json)
        except ValueError as error:
            raise ValueError(f"PERDURE_INPUT is not JSON: {error}") from error

    async def save(self, data: bytes, *, content_type: str, label: str | None) -> int:
        """Replace the file in one step: a crash leaves the old checkpoint or the new one."""
        previous = await self.latest()
        sequence = previous.sequence + 1 if previous else 1
        header = encode_json({"sequence": sequence, "label": label, "type": content_type}, field="label")
        _replace(self._file, header + b"\n" + data)
        _say(f"checkpoint {sequence}: {len(data)} bytes" + (f" ({label})" if label else ""))
        return sequence

    async def latest(self) -> Checkpoint | None:
        """The file's checkpoint; None if there is no file."""
        content = _read(self._file)
        if content is None:
            return None
        header, _, data = content.partition(b"\n")
        about = json.loads(header)
        return Checkpoint(
            sequence=about["sequence"], label=about["label"], data=data, content_type=about["type"]
        )

    async def progress(self, *, percent: float | None, message: str | None) -> None:
        """Say it."""
        share = "" if percent is None else f"{percent:g} %"
        _say("progress: " + " ".join(part for part in (share, message) if part))

    async def heartbeat(self) -> None:
        """Nobody listens."""

    async def result(self, output: bytes, *, patience: float | None) -> None:
        """Print the output, alone, on standard output; forget the checkpoint."""
        sys.stdout.write(output.decode() + "\n")
        sys.stdout.flush()
        _forget(self._file)

    async def failure(self, message: str, *, retryable: bool, patience: float | None) -> None:
        """Say it, and keep the checkpoint for the next try."""
        _say(f"failed ({'may be tried again' if retryable else 'for good'}): {message}")


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _replace(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    with fresh.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)


def _forget(file: Path) -> None:
    file.unlink(missing_ok=True)


def _say(text: str) -> None:
    sys.stderr.write(f"perdure: {text}\n")
