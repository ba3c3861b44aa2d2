"""The HTTP server of one ASGI application, whose stop completes the requests in flight.

Connections are accepted by `acceptor.py`, counted by `connections.py`, and bounded by `connection.py`; HTTP
and the order of a stop are uvicorn's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.gateway.http.acceptor import Acceptor, TlsContext, listen
from perdure.gateway.http.connection import READ, BoundedConnection
from perdure.gateway.http.connections import Connections, Place
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import HttpProblem, Problem

#: Connections that wait to be accepted.
BACKLOG: Final = 1024
#: Paths that a connection of the reserve may ask for.
HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz"})
#: File descriptors for all else than clients: listeners, connections to Postgres and the API server, files.
_OWN_FILES: Final = 128

_log = structlog.get_logger(__name__)


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket for `serve_app`. Raises OSError."""
    return listen(host, port, backlog=BACKLOG)


async def serve_app(
    app: ASGIApp,
    listener: socket.socket,
    *,
    stop: asyncio.Event,
    limits: Limits | None = None,
    tls: TlsContext | None = None,
) -> None:
    """Serve one application until `stop` is set. Then accept nothing new, and finish what is in flight.

    Requests that have not ended `limits.drain` seconds after the stop are cancelled. Closes `listener`.
    """
    limits = _within_files(limits or Limits())
    config = uvicorn.Config(
        app,
        # Named, so that uvicorn loads no protocol but that from which ours is derived.
        http="httptools",
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=limits.keep_alive,  # type: ignore[arg-type] # used as seconds of a timer
        timeout_graceful_shutdown=limits.drain,
    )
    server = _Server(config, listener, limits=limits, tls=tls)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_stop_when(stop, server), name="gateway-stop")
        try:
            await server.serve()
        finally:
            waiting.cancel()
            listener.close()


class _Server(uvicorn.Server):
    """uvicorn with an acceptor of our own and without signal handlers, which the caller of `serve` has."""

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, *, limits: Limits, tls: TlsContext | None
    ) -> None:
        super().__init__(config)
        self.servers = []
        self._listener = listener
        self._limits = limits
        self._buffer = bytearray(READ)
        self._acceptor = Acceptor(listener, Connections(limits), self._protocol, tls=tls)
        self._accepting: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._accepting = asyncio.get_running_loop().create_task(self._acceptor.run(), name="gateway-accept")
        self.started = True

    async def main_loop(self) -> None:
        assert self._accepting is not None
        serving = asyncio.ensure_future(super().main_loop())
        try:
            # An acceptor that has ended would leave a gateway that is alive and accepts no client.
            await asyncio.wait({serving, self._accepting}, return_when=asyncio.FIRST_COMPLETED)
            if self._accepting.done():
                await self._accepting
        finally:
            serving.cancel()
            await asyncio.wait({serving})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.wait({self._accepting})
        self._listener.close()
        await super().shutdown(sockets)

    def _protocol(self, place: Place) -> BoundedConnection:
        app = self.config.loaded_app
        return BoundedConnection(
            self.config,
            self.server_state,
            app=_OnlyHealth(app) if place.reserve else app,
            place=place,
            limits=self._limits,
            buffer=self._buffer,
        )


class _OnlyHealth:
    """The application as a connection of the reserve has it: health, once."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH_PATHS:
            await self._app(scope, receive, _closing(send))
            return
        problem = Problem(
            HttpProblem.TOO_MANY_CONNECTIONS,
            "connection: the gateway has as many as it takes, of all clients or of this address; "
            "close what is not used, and try again",
            headers={"Connection": "close"},
        )
        await problem.response()(scope, receive, send)


def _closing(send: Send) -> Send:
    async def send_closing(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return send_closing


def _within_files(limits: Limits) -> Limits:
    """The limits with no more connections than the process may open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + limits.reserve + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    allowed = max(1, soft - limits.reserve - _OWN_FILES)
    _log.warning("fewer connections than configured", files=soft, connections=allowed)
    return replace(limits, connections=allowed)


async def _stop_when(stop: asyncio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True
