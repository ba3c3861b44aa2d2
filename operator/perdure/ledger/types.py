"""What the ledger hands to gateway and relay, as values.

They lie apart from `Ledger` so that code which only names them does not load the database driver.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from perdure.domain.records import Event, LedgerError, RunKind, TaskKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSession:
    """Which attempt a pod is, and what its agent may know. Read when the agent calls.

    It may be kept: every write checks the attempt again in its own statement, so an old session can do no
    harm; only `open` and `checkpoint_sequence` age.
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
    #: Sequence number of the task's newest checkpoint, None if there is none.
    checkpoint_sequence: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint as the agent wrote it. Its checksum has been verified."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """An event that waits to be published. `id` is what `Ledger.outbox_done` wants."""

    id: int
    event: Event


class CorruptCheckpoint(LedgerError):
    """A stored checkpoint does not match its checksum. An older one may be intact."""
