"""Liveness and readiness of the operator, for the kubelet.

Liveness says only that the event loop turns. A backlog does not count: an operator that is restarted because
it is busy never catches up.

Every pod may reach the port where no network policy is enforced. A general server keeps connections, heads
and bodies for as long as a client likes, so that one pod could take the operator's memory or its file
descriptors. This one answers one short request for each connection, in a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, cast

#: Lines of findings in one answer.
MAX_FINDINGS = 100
#: Bytes of a request, which has no body.
MAX_REQUEST: Final = 4096
#: Seconds from the start of a connection to its end: for the request, and for the client to read the answer.
CONNECTION_TIME: Final = 5.0
#: Connections at once. A new one displaces the oldest, so that the kubelet is answered however many others
#: there are.
MAX_CONNECTIONS: Final = 128
#: Connections that are accepted in one callback: far fewer than may exist, or they would displace each other
#: before any of them is read.
_BACKLOG: Final = 32
_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Health:
    """The two probes; each returns None if the process is well, else the fault as text."""

    alive: Callable[[], str | None]
    ready: Callable[[], str | None]
    #: Lines for the answer of a process that is ready: what it leaves out or passes over.
    findings: Callable[[], list[str]] = list

    def answer(self, path: bytes) -> tuple[HTTPStatus, str]:
        """Status and text for a path."""
        match path.partition(b"?")[0]:
            case b"/healthz":
                fault, findings = self.alive(), []
            case b"/readyz":
                fault, findings = self.ready(), self.findings()[:MAX_FINDINGS]
            case _:
                return HTTPStatus.NOT_FOUND, "there are /healthz and /readyz"
        status = HTTPStatus.OK if fault is None else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "\n".join([fault or "ok", *findings])


async def serve_health(host: str, port: int, health: Health, *, stop: asyncio.Event) -> None:
    """Answer `/healthz` and `/readyz` until `stop` is set. Raises OSError if the port is taken."""
    loop = asyncio.get_running_loop()
    #: Connections from the oldest on.
    connections: dict[_Connection, None] = {}
    server = await loop.create_server(lambda: _Connection(health, connections), host, port, backlog=_BACKLOG)
    try:
        await stop.wait()
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()
        await server.wait_closed()


class _Connection(asyncio.Protocol):
    """One connection, which gets one answer."""

    def __init__(self, health: Health, connections: dict[_Connection, None]) -> None:
        self._health = health
        self._connections = connections
        self._received = b""
        self._answered = False

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop are of no class of asyncio's, so nothing can be asserted of their type.
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(CONNECTION_TIME, self.abort)
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            # Its `connection_lost` comes later, and others may be accepted before that.
            del self._connections[oldest]
            oldest.abort()
        self._connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connections.pop(self, None)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._received += data
        if len(self._received) > MAX_REQUEST:
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"at most {MAX_REQUEST} bytes")
        elif _END in self._received:
            method, _, rest = self._received.partition(b" ")
            path, _, protocol = rest.partition(b"\r\n")[0].rpartition(b" ")
            if not protocol.startswith(b"HTTP/1."):
                self._answer(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1")
            elif method not in (b"GET", b"HEAD"):
                self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "use GET")
            else:
                self._answer(*self._health.answer(path), head=method == b"HEAD")

    def _answer(self, status: HTTPStatus, text: str, *, head: bool = False) -> None:
        self._answered = True
        body = text.encode()
        self._transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + (b"" if head else body)
        )
        # Once what was written has been sent, or aborted by the timer.
        self._transport.close()
