"""Limits of HTTP requests and responses that hold for every route family; tests make them small."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    #: Connections of one gateway, whatever they are for, and those from one address. Address translation
    #: gives many agents one address, so the second is far above what one agent needs.
    connections: int = 4096
    connections_per_address: int = 1024
    #: Further connections, which may only ask for the gateway's health. A new one displaces the oldest.
    reserve: int = 32
    #: The head of a request: its URL, and for each header the name, the value and four bytes.
    head: int = 32 * KIB
    #: The URL alone.
    url: int = 8 * KIB
    #: Headers of one request, trailers included.
    headers: int = 100
    #: Time until the head of a request is whole, from the start of the connection or its first byte.
    head_time: float = 10.0
    #: Silence between two requests. Longer than the interval of the agents' heartbeats, so that an agent
    #: keeps its connection.
    keep_alive: float = 75.0
    #: Time for which a client may read nothing of what it was sent.
    write_time: float = 30.0
    #: Requests of one caller a second, and those that may come at once after a pause. Beyond it answers are
    #: delayed, by at most a second. One agent that saves one checkpoint after another sends some 1,150 a
    #: second; all agents together get some 2,800 a second from one gateway.
    requests_rate: float = 1500.0
    requests_burst: float = 3000.0
    #: Requests of one caller that are under way.
    requests_at_once: int = 32
    #: Request and response bodies in memory, of all clients together. A body that exceeds the rest waits.
    memory: int = 256 * MIB
    #: The same of one caller, and of one namespace.
    memory_per_caller: int = 16 * MIB
    memory_per_namespace: int = 192 * MIB
    #: Memory that a body takes for each of its bytes: the body, and its copy in the statement that stores it.
    copies: int = 2
    #: Bodies up to this size do not count against `memory`: 4,096 connections hold 64 MiB of them.
    uncounted: int = 16 * KIB
    #: Longest wait of a large body for its share of `memory`.
    memory_wait: float = 15.0
    #: Unused rest of a request body that is read before the response is sent. A client that is still sending
    #: would see a reset connection in place of the response.
    discarded: int = 128 * MIB
    #: Time for a body to arrive or to leave, apart from its size.
    body_time: float = 30.0
    #: Slowest acceptable transfer in bytes per second, on top of `body_time`.
    slowest: int = 512 * KIB
    #: Slowest acceptable transfer of a large body over the last `rate_time` seconds, in bytes per second.
    #: Without it a client could send one byte, and hold what it holds until the end of the whole transfer's
    #: time.
    least_rate: int = 128 * KIB
    rate_time: float = 10.0
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
