"""What the ledger hands to gateway and relay, as values.

They lie apart from `Ledger` so that code which only names them does not load the database driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perdure.domain.records import LedgerError, RunKind, TaskKey

#: Checkpoints that a task keeps, unless its run says otherwise.
CHECKPOINTS_PER_TASK: Final = 10
#: Bytes of a signal's payload, as compact UTF-8 JSON: a decision holds all signals of a run in memory.
SIGNAL_PAYLOAD: Final = 64 * 1024
#: Signals of one run that no decision has consumed.
SIGNALS_UNREAD: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSession:
    """Which attempt a pod is, and what its agent may know. Read when the agent calls.

    It may be kept: every write checks the attempt again in its own statement, so an old session can do no
    harm; only `open` and what is said of the newest checkpoint age.
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
    #: Why the last attempt that failed did: attempt, reason, message, exitCode. None if none has.
    last_failure: Mapping[str, Any] | None = field(default=None, repr=False)
    #: Of the newest checkpoint that the task can go on from: its number, what its agent called it, and when
    #: it was saved. None if there is none.
    checkpoint_sequence: int | None = None
    checkpoint_label: str | None = None
    checkpoint_at: datetime | None = None
    #: How many checkpoints the task keeps.
    checkpoints_per_task: int = CHECKPOINTS_PER_TASK


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What is known of a checkpoint without reading it."""

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
    #: False: kept and listed, but no attempt goes on from it unless it asks for its number.
    recoverable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCheckpoint:
    """A checkpoint whose bytes are intact, to be read piece by piece."""

    info: CheckpointInfo
    #: A new pass over the bytes. Raises CorruptCheckpoint if they are gone or changed since it was opened.
    pieces: Callable[[], AsyncIterator[bytes]] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint as the agent wrote it, whole. Its checksum has been verified."""

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

    #: Its number, once it is known.
    sequence: int | None = None


class WrongChecksum(LedgerError):
    """What arrived is not what its sender says it sent. Nothing was written."""


class Overtaken(LedgerError):
    """The same attempt has saved a newer checkpoint, or another one under the same order number.

    Nothing was written: what was sent earlier must not become current because it arrived later.
    """


class SignalRefused(LedgerError):
    """A signal was not written."""


class UnknownRun(SignalRefused):
    """The ledger has no run of that uid: it was never accepted, or its history is deleted."""


class RunEnded(SignalRefused):
    """The run has ended, so no decision would consume the signal."""


class SignalTooLarge(SignalRefused):
    """The payload is longer than SIGNAL_PAYLOAD."""


class InboxFull(SignalRefused):
    """SIGNALS_UNREAD signals of the run wait to be consumed: send the signal again later."""
