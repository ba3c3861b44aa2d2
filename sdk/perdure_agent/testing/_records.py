"""Records of a test gateway: the checkpoints that a test gives, and all that an agent reported."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

#: Calls of an agent, by the names of its methods. `input` is sent only for an input that is not mounted.
Route = Literal[
    "input", "checkpoint", "checkpoints", "restore", "progress", "heartbeat", "result", "failure", "unknown"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint from before the first attempt. `data`: bytes, or any JSON value."""

    data: Any
    label: str | None = None
    recoverable: bool = True
    #: Default: application/octet-stream for bytes, application/json for other data.
    content_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCheckpoint:
    """A checkpoint that the gateway keeps."""

    #: From 1, over all attempts.
    sequence: int
    #: Number of the attempt that saved the checkpoint; 0 for a checkpoint that the test gave.
    attempt: int
    data: bytes
    content_type: str
    label: str | None
    recoverable: bool
    #: `Perdure-Order`; None without that header.
    order: int | None
    #: Virtual seconds.
    at: float

    def json(self) -> Any:
        """The data, parsed as JSON. Raises ValueError for other data."""
        return json.loads(self.data)

    @property
    def sha256(self) -> str:
        """Checksum of the data, in hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProgress:
    """One report of progress. None for a field that the report left out."""

    attempt: int
    percent: float | None
    message: str | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """One request and the status of its response."""

    method: str
    #: Below /agent/v1, without query.
    path: str
    route: Route
    #: None for a request without a valid token.
    attempt: int | None
    #: None if the agent got no response.
    status: int | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """The task has succeeded."""

    attempt: int
    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt has failed, or was disrupted."""

    attempt: int
    #: AgentFailure, ExitCode or Disrupted; the reason in the next attempt's `agent.last_failure`.
    reason: str
    message: str
    #: False: the operator starts no further attempt.
    retryable: bool
    exit_code: int | None = None
