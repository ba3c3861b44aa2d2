"""Limits of HTTP requests and responses that hold for every route family; tests make them small."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    #: Request bodies in memory, of all clients together. A body that exceeds the rest waits.
    memory: int = 256 * MIB
    #: Bodies up to this size do not count against `memory`.
    uncounted: int = 256 * KIB
    #: Longest wait of a large body for its share of `memory`.
    memory_wait: float = 15.0
    #: Unused rest of a request body that is read before the response is sent. A client that is still sending
    #: would see a reset connection in place of the response.
    discarded: int = 128 * MIB
    #: Time for a body to arrive or to leave, apart from its size.
    body_time: float = 30.0
    #: Slowest acceptable transfer in bytes per second, on top of `body_time`.
    slowest: int = 512 * KIB
    #: Life of a streamed response without an end of its own. The client opens the stream again afterwards,
    #: with a token that is checked again.
    stream_time: float = 3600.0
    #: Longest silence on an event stream before a comment is sent: proxies close idle connections.
    stream_idle: float = 15.0
    #: Time for requests in flight to end when the gateway stops.
    drain: int = 20

    def transfer_time(self, size: int) -> float:
        """Longest time in which a body of `size` bytes may arrive or leave."""
        return self.body_time + size / self.slowest
