"""The acceptor of connections, which counts a connection before anything is done for it.

asyncio's own server accepts all waiting connections in one callback, and hands them over only after their TLS
handshake: until then they would be in no count.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from perdure.gateway.http.connections import Connections, Place
from perdure.gateway.http.log_limiter import LogLimiter

#: Seconds without accepting after the process has run out of file descriptors or memory.
_EXHAUSTED_PAUSE: Final = 0.2
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds for a TLS handshake, and for the orderly end of a TLS connection.
HANDSHAKE_TIME: Final = 10.0
_TLS_SHUTDOWN_TIME: Final = 5.0

#: Seconds of silence after which the kernel probes a connection, between its probes, and their number: a peer
#: that vanished without a FIN is noticed within two minutes.
_KEEP_ALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
#: Milliseconds for which sent bytes may stay without acknowledgement.
_USER_TIMEOUT: Final = 30_000

_log = structlog.get_logger(__name__)


class TlsContext(Protocol):
    """The server's certificate: see `tls.Certificate`."""

    def current(self) -> ssl.SSLContext: ...


def listen(host: str, port: int, *, backlog: int) -> socket.socket:
    """A listening socket, whose options hold for the accepted sockets as well. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only for sockets whose protocol is named. With the algorithm on,
    # every response waits 40 ms for the client's delayed acknowledgement of the headers.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            bound.setsockopt(socket.IPPROTO_TCP, option, value)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
        bound.bind((host, port))
        bound.listen(backlog)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


class Acceptor:
    """Accepts the connections of one listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        connections: Connections,
        protocol: Callable[[Place], asyncio.BaseProtocol],
        *,
        tls: TlsContext | None,
    ) -> None:
        """`protocol` makes the protocol of a connection, which releases its place when it is lost."""
        self._listener = listener
        self._connections = connections
        self._protocol = protocol
        self._tls = tls
        self._limiter = LogLimiter(_log)

    async def run(self) -> None:
        """Accept until cancelled. Connections that are established by then stay."""
        async with asyncio.TaskGroup() as group:
            while True:
                accepted, address = await self._accept()
                place = self._connections.take(address)
                group.create_task(self._connect(accepted, place), name="gateway-connection")

    async def _accept(self) -> tuple[socket.socket, str]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    # The client was gone before it was accepted.
                    await asyncio.sleep(0)
                    continue
                self._limiter.warning("connections not accepted", error=str(error))
                await asyncio.sleep(_EXHAUSTED_PAUSE)
            else:
                # `sock_accept` does not suspend while connections are waiting.
                await asyncio.sleep(0)
                return accepted, peer[0]

    async def _connect(self, accepted: socket.socket, place: Place) -> None:
        loop = asyncio.get_running_loop()
        protocol = self._protocol(place)
        task = asyncio.current_task()
        assert task is not None
        place.end_with(task.cancel)
        context = None if self._tls is None else self._tls.current()
        times = (
            {}
            if context is None
            else {
                "ssl_handshake_timeout": min(HANDSHAKE_TIME, place.head_time),
                "ssl_shutdown_timeout": _TLS_SHUTDOWN_TIME,
            }
        )
        try:
            await loop.connect_accepted_socket(lambda: protocol, sock=accepted, ssl=context, **times)
        except OSError:
            # No handshake, or not in time: `ssl.SSLError` and TimeoutError are OSErrors.
            place.release()
        except asyncio.CancelledError:
            # Displaced, or the server stops.
            place.release()
            accepted.close()
            raise
        except Exception as error:
            # A defect, which must not end the acceptor: no other connection would be accepted any more.
            place.release()
            accepted.close()
            self._limiter.error("connection failed", exc_info=error)
