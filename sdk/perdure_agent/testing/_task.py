"""State of one task in memory: its attempts, checkpoints and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perdure_agent.testing._problems import Problem
from perdure_agent.testing._records import Failure, RecordedCheckpoint, RecordedProgress, Success


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The gateway's limits, under the same names. Sizes in bytes, lengths in characters."""

    checkpoint: int = 64 * 1024 * 1024
    listed: int = 1000
    listed_by_default: int = 100
    output: int = 1024 * 1024
    result_body: int = 8 * 1024 * 1024
    small_body: int = 64 * 1024
    label: int = 256
    failure_message: int = 4096
    progress_message: int = 1024


@dataclass(slots=True)
class Attempt:
    """One attempt and its pod's token."""

    number: int
    token: str
    #: The operator has recorded the pod.
    known: bool = True
    open: bool = True
    #: Earlier tokens of the pod.
    expired: set[str] = field(default_factory=set)
    report: Success | Failure | None = None
    #: Highest `Perdure-Order` of the attempt's checkpoints.
    order: int | None = None


@dataclass(slots=True, kw_only=True)
class Task:
    """State of one task, over all attempts."""

    namespace: str
    workflow: str
    name: str
    step: str
    index: int | None
    input: Any
    last_failure: Mapping[str, Any] | None = None
    limits: Limits = field(default_factory=Limits)
    #: Number of newest checkpoints that the retention keeps.
    kept: int = 10
    attempts: list[Attempt] = field(default_factory=list)
    checkpoints: list[RecordedCheckpoint] = field(default_factory=list)
    #: Highest sequence so far, kept or not.
    sequence: int = 0
    progress: list[RecordedProgress] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    restored: list[tuple[int, int]] = field(default_factory=list)
    #: Sequence numbers of checkpoints that are damaged in the ledger, and in transit.
    corrupt: set[int] = field(default_factory=set)
    garbled: set[int] = field(default_factory=set)

    def attempt_of(self, headers: Mapping[str, str]) -> Attempt:
        """The attempt whose token the request carries. Raises Problem (unauthenticated, token-expired)."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Problem(
                "unauthenticated",
                "Authorization: send `Bearer` and the token in the file that PERDURE_TOKEN_FILE names",
            )
        for attempt in self.attempts:
            if attempt.token == token.strip():
                return attempt
            if token.strip() in attempt.expired:
                raise Problem(
                    "token-expired",
                    "Authorization: the token has expired and the kubelet has not renewed it; read the file "
                    "that PERDURE_TOKEN_FILE names again, and repeat the call after Retry-After",
                )
        raise Problem(
            "unauthenticated",
            "Authorization: the token is not valid; read the file that PERDURE_TOKEN_FILE names again at "
            "each use",
        )

    def add(self, checkpoint: RecordedCheckpoint) -> None:
        """Store a checkpoint, and delete those that the retention no longer covers."""
        self.sequence = checkpoint.sequence
        self.checkpoints.append(checkpoint)
        newest = max((kept.sequence for kept in self.checkpoints if kept.recoverable), default=0)
        oldest = self.sequence - self.kept
        self.checkpoints[:] = [
            kept for kept in self.checkpoints if kept.sequence > oldest or kept.sequence == newest
        ]

    def latest(self, label: str | None = None) -> RecordedCheckpoint | None:
        """The newest recoverable checkpoint, of that label if it is given."""
        fitting = (kept for kept in reversed(self.checkpoints) if kept.recoverable)
        return next((kept for kept in fitting if label in (None, kept.label)), None)
