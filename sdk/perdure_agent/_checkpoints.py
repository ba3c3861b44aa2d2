"""Checkpoints as an agent gets and chooses them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

BYTES = "application/octet-stream"
JSON = "application/json"
#: Size of the largest checkpoint that the gateway keeps. Bytes.
LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """An entry of the list of checkpoints. `sequence` counts from 1 over all attempts of the task."""

    sequence: int
    label: str | None
    #: Bytes.
    size: int
    content_type: str
    #: Number of the attempt that saved it.
    attempt: int
    at: datetime
    #: False: `restore` returns this checkpoint only for its sequence number.
    recoverable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A state of the task that some attempt saved. `sequence` counts from 1 over all attempts."""

    sequence: int
    label: str | None
    data: bytes
    content_type: str = BYTES
    #: Sequence numbers of newer, damaged checkpoints. The work since this checkpoint has to be repeated.
    skipped: tuple[int, ...] = ()

    def json(self) -> Any:
        """The data, parsed as JSON. Raises ValueError for other data."""
        return json.loads(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredFile:
    """A checkpoint whose bytes were written to a file."""

    sequence: int
    label: str | None
    path: Path
    content_type: str = BYTES
    #: As in `Checkpoint`.
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """A choice of checkpoint: by sequence number, or the newest recoverable one, of one label or of all."""

    sequence: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint whose bytes are in the sink."""

    sequence: int
    label: str | None
    content_type: str


def encode_json(value: Any, *, field: str) -> bytes:
    """Compact UTF-8 JSON. Raises TypeError or ValueError, naming `field`, for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise TypeError(f"{field} cannot be written as JSON: {error}") from error
    except ValueError as error:
        raise ValueError(f"{field} cannot be written as JSON: {error}") from error
