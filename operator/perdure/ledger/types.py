"""The values and errors that the ledger shares with the gateway.

A module of their own, so that code which only names them does not load the database driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perdure.domain.records import LedgerError, RunKind, TaskKey

#: Checkpoints that a task keeps, unless its run sets `retention.checkpointsPerTask`.
CHECKPOINTS_PER_TASK: Final = 10
#: Bytes of a signal's payload, as compact UTF-8 JSON.
SIGNAL_PAYLOAD: Final = 64 * 1024
#: Bytes of a signal's id, name, sender and step, each. An index over longer ids could refuse them.
SIGNAL_TEXT: Final = 512
#: Signals of one run that no decision has consumed, and the bytes of their payloads. The operator reads all
#: of them in one pass, on the event loop that serves every run. Gateways that send at once may exceed either
#: limit by one signal each.
SIGNALS_UNREAD: Final = 1000
SIGNALS_UNREAD_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSession:
    """The attempt of a pod, and the facts that its agent may know.

    A session may be cached: every write checks the attempt again in its own statement. Only `open` and the
    newest checkpoint may be outdated.
    """

    workflow_uid: str
    kind: RunKind
    namespace: str
    #: Name of the Workflow, or of the AgentTask that was applied by itself.
    run_name: str
    shard: int
    key: TaskKey
    #: Name of the AgentTask object.
    task_name: str
    #: Number of the attempt, from 1.
    attempt: int
    pod_name: str
    #: False once the attempt is closed or a newer one exists: all writes raise Superseded.
    open: bool
    input: Any = field(repr=False)
    #: The last failure of the task: attempt, reason, message, exitCode. None if no attempt failed.
    last_failure: Mapping[str, Any] | None = field(default=None, repr=False)
    #: The newest recoverable checkpoint: number, label and time. None if there is none.
    checkpoint_sequence: int | None = None
    checkpoint_label: str | None = None
    checkpoint_at: datetime | None = None
    #: How many checkpoints the task keeps.
    checkpoints_per_task: int = CHECKPOINTS_PER_TASK


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint without its bytes."""

    #: Counts 1, 2, 3 … within the task, across its attempts.
    sequence: int
    #: Number of the attempt that wrote it.
    attempt: int
    created_at: datetime
    content_type: str
    label: str | None
    #: Bytes that the agent wrote.
    size: int
    #: Hexadecimal SHA-256 of them.
    sha256: str
    #: False: stored and listed, but an attempt goes on from it only by its number.
    recoverable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCheckpoint:
    """A checkpoint whose bytes were checked, to be read piece by piece."""

    info: CheckpointInfo
    #: Iterates over the bytes. Raises CorruptCheckpoint if they were deleted or changed since the check.
    pieces: Callable[[], AsyncIterator[bytes]] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint with its bytes as the agent wrote them, checked against the checksum."""

    #: Counts 1, 2, 3 … within the task, across its attempts.
    sequence: int
    #: Number of the attempt that wrote it.
    attempt: int
    created_at: datetime
    content_type: str
    label: str | None
    #: Hexadecimal SHA-256 of `data`.
    sha256: str
    data: bytes = field(repr=False)
    recoverable: bool = True


class CorruptCheckpoint(LedgerError):
    """A stored checkpoint does not match its checksum. An older one may be intact."""

    #: Number of the checkpoint, where it is known.
    sequence: int | None = None


class WrongChecksum(LedgerError):
    """The bytes that arrived do not have the sender's checksum. Nothing was written."""


class Overtaken(LedgerError):
    """The same attempt has saved a newer checkpoint, or another one under the same order number.

    Nothing was written: a checkpoint that was sent earlier must not become current because it arrived later.
    """


class SignalRefused(LedgerError):
    """A signal was not written."""


class UnknownRun(SignalRefused):
    """The ledger has no run of that uid: it was never accepted, or its history is deleted."""


class RunEnded(SignalRefused):
    """The run has ended, so no decision would consume the signal."""


class SignalTooLarge(SignalRefused):
    """The payload is longer than SIGNAL_PAYLOAD, or another text of the signal than SIGNAL_TEXT."""


class InboxFull(SignalRefused):
    """SIGNALS_UNREAD signals, or SIGNALS_UNREAD_BYTES, wait to be consumed: send the signal again later."""
