"""Checkpoints as an agent sees them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

BYTES = "application/octet-stream"
JSON = "application/json"
#: The largest checkpoint that is kept, in bytes.
LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What the list tells of a checkpoint. `sequence` counts from 1 over all attempts of the task."""

    sequence: int
    label: str | None
    #: Bytes.
    size: int
    content_type: str
    #: Number of the attempt that saved it.
    attempt: int
    at: datetime
    #: False: `restore` gives it only to who asks for its sequence.
    recoverable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved state of the task, by whichever attempt. `sequence` counts from 1 over all attempts."""

    sequence: int
    label: str | None
    data: bytes
    content_type: str = BYTES
    #: Newer ones that were passed over because they are damaged; what they held is to be done again.
    skipped: tuple[int, ...] = ()

    def json(self) -> Any:
        """The data, parsed as JSON. Raises ValueError if it is none."""
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
    """A checkpoint that is asked for: by number, or the newest recoverable one, of a label if it is given."""

    sequence: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint whose bytes went where they were wanted."""

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
