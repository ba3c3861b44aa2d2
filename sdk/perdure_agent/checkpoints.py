"""Checkpoints as an agent sees them, and how what it saves becomes bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

BYTES = "application/octet-stream"
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved state of the task, by whichever attempt. `sequence` counts from 1 over all attempts."""

    sequence: int
    label: str | None
    data: bytes
    content_type: str = BYTES

    def json(self) -> Any:
        """The data, parsed as JSON. Raises ValueError if it is none."""
        return json.loads(self.data)


def encode_json(value: Any, *, field: str) -> bytes:
    """Compact UTF-8 JSON. Raises TypeError or ValueError, naming `field`, for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise TypeError(f"{field} cannot be written as JSON: {error}") from error
    except ValueError as error:
        raise ValueError(f"{field} cannot be written as JSON: {error}") from error


def encode(data: Any) -> tuple[bytes, str]:
    """Bytes and their content type: bytes as they are, anything else as JSON."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), BYTES
    return encode_json(data, field="checkpoint"), JSON
