"""Backend in a local folder: a task without a cluster, for the same agent on a laptop.

The folder behaves like one task of a run. An agent that was interrupted or failed finds its checkpoints when
it is started again; an agent that reported its result starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perdure_agent._checkpoints import CheckpointInfo, Found, Which, encode_json
from perdure_agent._payload import Payload, Sink
from perdure_agent.errors import DamagedCheckpoint

#: Checkpoints that a task keeps: the default of `retention.checkpointsPerTask`.
_KEPT = 10
_PIECE = 256 * 1024


class LocalBackend:
    """Newest checkpoints in a folder of the task's own; progress and results on the terminal."""

    def __init__(self, *, directory: Path, task: str, input_json: str | None) -> None:
        self._folder = directory / task
        self._input_json = input_json

    async def read_input(self) -> Any:
        """`PERDURE_INPUT`, or {}."""
        if self._input_json is None:
            return {}
        try:
            return json.loads(self._input_json)
        except ValueError as error:
            raise ValueError(f"PERDURE_INPUT is not JSON: {error}") from error

    async def save(
        self, payload: Payload, *, label: str | None, recoverable: bool, order: int, patience: float | None
    ) -> int:
        """Add a file in one step: a crash leaves the whole file or none."""
        kept = self._files()
        sequence = max(kept, default=0) + 1
        header = {
            "sequence": sequence,
            "label": label,
            "type": payload.content_type,
            "size": payload.size,
            "sha256": payload.sha256,
            "at": datetime.now(UTC).isoformat(),
            "recoverable": recoverable,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / "new"
        with fresh.open("wb") as stream:
            stream.write(encode_json(header, field="label") + b"\n")
            async for piece in payload.pieces():
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self._folder / f"{sequence}.checkpoint")
        self._prune()
        _say(f"checkpoint {sequence}: {payload.size} bytes" + (f" ({label})" if label else ""))
        return sequence

    async def load(self, which: Which, sink: Sink, *, patience: float | None) -> Found | None:
        """Its bytes into `sink`; None if there is no such file. Raises DamagedCheckpoint."""
        if which.sequence is None:
            fitting = (info for info in await self.list(which.label, patience=patience) if info.recoverable)
            sequence = next((info.sequence for info in fitting), 0)
        else:
            sequence = which.sequence
        try:
            stream = (self._folder / f"{sequence}.checkpoint").open("rb")
        except FileNotFoundError:
            return None
        with stream:
            about = json.loads(stream.readline())
            digest = hashlib.sha256()
            sink.begin()
            while piece := stream.read(_PIECE):
                digest.update(piece)
                sink.write(piece)
        if digest.hexdigest() != about["sha256"]:
            raise DamagedCheckpoint(sequence, f"checkpoint {sequence} is damaged: its checksum differs")
        return Found(sequence=sequence, label=about["label"], content_type=about["type"])

    async def list(self, label: str | None, *, patience: float | None) -> list[CheckpointInfo]:
        """All checkpoints in the folder, newest first."""
        found = [_info(file) for file in self._files().values()]
        return [info for info in found if label in (None, info.label)]

    async def progress(self, *, percent: float | None, message: str | None) -> None:
        """Write a line to standard error."""
        share = "" if percent is None else f"{percent:g} %"
        _say("progress: " + " ".join(part for part in (share, message) if part))

    async def heartbeat(self) -> None:
        """Do nothing: no operator watches a local task."""

    async def result(self, output: bytes, *, patience: float | None) -> None:
        """Print the output, alone, on standard output, and delete the checkpoints."""
        sys.stdout.write(output.decode() + "\n")
        sys.stdout.flush()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def failure(self, message: str, *, retryable: bool, patience: float | None) -> None:
        """Write a line to standard error, and keep the checkpoints for the next start."""
        _say(f"failed ({'may be tried again' if retryable else 'for good'}): {message}")

    def _files(self) -> dict[int, Path]:
        """Files by sequence number, newest first."""
        found = {int(file.stem): file for file in self._folder.glob("*.checkpoint")}
        return dict(sorted(found.items(), reverse=True))

    def _prune(self) -> None:
        files = list(self._files().values())
        # As in the ledger, the newest recoverable checkpoint stays, however many others follow.
        newest = next((file for file in files if _info(file).recoverable), None)
        for file in files[_KEPT:]:
            if file != newest:
                file.unlink()


def _info(file: Path) -> CheckpointInfo:
    with file.open("rb") as stream:
        about = json.loads(stream.readline())
    return CheckpointInfo(
        sequence=about["sequence"],
        label=about["label"],
        size=about["size"],
        content_type=about["type"],
        attempt=1,
        at=datetime.fromisoformat(about["at"]),
        recoverable=about["recoverable"],
    )


def _say(text: str) -> None:
    sys.stderr.write(f"perdure: {text}\n")
