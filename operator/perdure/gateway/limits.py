"""Every limit that a client of the gateway can run into, in one place; tests make them small."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    #: One checkpoint, as sent.
    checkpoint: int = 64 * MIB
    #: Larger ones pass through in pieces, and are never here as a whole.
    whole: int = 1 * MIB
    #: Memory that such a one takes on its way.
    window: int = 4 * MIB
    #: So many of them arrive at once: each has a connection to the ledger until it is there. More wait.
    uploads: int = 4
    #: Checkpoints in one answer of the list: at most, and if the question names no number.
    listed: int = 1000
    listed_by_default: int = 100
    #: A result's output, counted on compact UTF-8 JSON.
    output: int = 1 * MIB
    #: A result's body as sent, which may be indented, or escape what is not ASCII.
    result_body: int = 8 * MIB
    #: Bodies of progress, heartbeat and failure.
    small_body: int = 64 * KIB
    #: Characters of a checkpoint's label.
    label: int = 256
    #: Characters that are kept of a failure's message; the rest is cut.
    failure_message: int = 4096
    #: Characters that are kept of a progress message; the rest is cut.
    progress_message: int = 1024
    #: Bytes of bodies in memory at once, all clients together; more of them wait.
    memory: int = 256 * MIB
    #: Bodies up to this size do not count against `memory`.
    uncounted: int = 256 * KIB
    #: How long a large body waits for its turn.
    memory_wait: float = 15.0
    #: How much of a body is taken in only to be able to answer a client that is still sending.
    discarded: int = 128 * MIB
    #: Time for a body to arrive or to leave, apart from its size.
    body_time: float = 30.0
    #: Slowest acceptable transfer, in bytes per second, on top of that.
    slowest: int = 512 * KIB
    #: Least time between two progress events of one attempt.
    progress_interval: float = 0.5
    #: Attempts whose pods are remembered between writes.
    sessions: int = 4096
    #: Time for requests in flight to end when the gateway stops.
    drain: int = 20

    def transfer_time(self, size: int) -> float:
        """How long a body of `size` bytes may take."""
        return self.body_time + size / self.slowest
