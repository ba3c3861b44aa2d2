"""What a test gives to its gateway, and what it finds there afterwards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

#: Calls of an agent, by the names of its methods; `input` is asked for only if it is not mounted.
Route = Literal[
    "input", "checkpoint", "checkpoints", "restore", "progress", "heartbeat", "result", "failure", "unknown"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that is there before the agent starts. `data`: bytes, or any other JSON value."""

    data: Any
    label: str | None = None
    recoverable: bool = True
    #: By default application/octet-stream for bytes and application/json for all else.
    content_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCheckpoint:
    """A checkpoint that is kept."""

    #: From 1, over all attempts.
    sequence: int
    #: Number of the attempt that saved it; 0 for a checkpoint that the test gave.
    attempt: int
    data: bytes
    content_type: str
    label: str | None
    recoverable: bool
    #: `Perdure-Order`; None if it was not sent.
    order: int | None
    #: Virtual seconds.
    at: float

    def json(self) -> Any:
        """The data, parsed. Raises ValueError if it is no JSON."""
        return json.loads(self.data)

    @property
    def sha256(self) -> str:
        """Hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProgress:
    """One report of progress. None: not named in it."""

    attempt: int
    percent: float | None
    message: str | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """One request, with the status that the gateway gave it."""

    method: str
    #: Below /agent/v1, without query.
    path: str
    route: Route
    #: None for a request without a good token.
    attempt: int | None
    #: None if the agent got no answer.
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
    #: As the next attempt finds it in `agent.last_failure`: AgentFailure, ExitCode or Disrupted.
    reason: str
    message: str
    #: False: the operator makes no further attempt.
    retryable: bool
    exit_code: int | None = None
