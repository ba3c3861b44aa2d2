"""Limits that an agent can run into, apart from those of HTTP itself; tests make them small."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.gateway.http.limits import KIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """Sizes in bytes, times in seconds."""

    #: One checkpoint, as sent.
    checkpoint: int = 64 * MIB
    #: Checkpoints above this size are never held in memory as a whole; their pieces pass through.
    whole: int = 1 * MIB
    #: Memory that such a checkpoint takes while its pieces pass through.
    window: int = 4 * MIB
    #: Large checkpoints that arrive at once: each holds a connection to the ledger until it ends. More wait.
    uploads: int = 4
    #: Checkpoints in one response of the list: at most, and where the query has no `limit`.
    listed: int = 1000
    listed_by_default: int = 100
    #: A result's output, counted on compact UTF-8 JSON.
    output: int = 1 * MIB
    #: A result's body as sent, which may be indented, or escape characters outside ASCII.
    result_body: int = 8 * MIB
    #: Bodies of progress, heartbeat and failure.
    small_body: int = 64 * KIB
    #: Characters of a checkpoint's label.
    label: int = 256
    #: Characters of a failure's message that are stored; the rest is cut.
    failure_message: int = 4096
    #: Characters of a progress message that are stored; the rest is cut.
    progress_message: int = 1024
    #: Least time between two progress events of one attempt.
    progress_interval: float = 0.5
    #: Checkpoint events of one attempt that may follow each other at once, and the time after which one more
    #: may follow.
    checkpoint_events: int = 30
    checkpoint_interval: float = 0.5
    #: Attempts that are cached between the writes of their pods.
    sessions: int = 4096
