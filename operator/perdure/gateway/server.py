"""Runs the gateway until it is told to stop, and stops without losing an answer that is due."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import uvicorn

from perdure.gateway.app import build_app
from perdure.gateway.limits import Limits
from perdure.gateway.pacing import ProgressPacer
from perdure.gateway.ports import AgentLedger, Verifier
from perdure.settings import Settings

#: Longer than the agents' heartbeats are apart, so that an agent keeps its connection. Seconds.
_KEEP_ALIVE = 75
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Leaves the process's signals to whoever runs us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    settings: Settings,
    *,
    ledger: AgentLedger,
    verifier: Verifier,
    stop: asyncio.Event,
    limits: Limits | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve until `stop` is set; then accept nothing new and finish what is in flight, within a deadline.

    `listener` replaces the address in the settings. Raises OSError if that address cannot be bound.
    """
    limits = limits or Limits()
    bound = listener or listen(settings.gateway_host, settings.gateway_port)
    async with ProgressPacer(ledger, clock=_now, interval=limits.progress_interval) as pacer:
        app = build_app(ledger, verifier, pacer=pacer, limits=limits, clock=_now, stopping=stop.is_set)
        server = _Server(
            uvicorn.Config(
                app,
                # Named, so that a request costs and means the same wherever we run: the other parser takes
                # twice the CPU for a small one.
                http="httptools",
                lifespan="off",
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=limits.drain,
                backlog=_BACKLOG,
            )
        )
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_stop_when(stop, server), name="gateway-stop")
            try:
                await server.serve(sockets=[bound])
            finally:
                waiting.cancel()
                bound.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only where it is: otherwise every
    # answer waits 40 ms for the client's delayed acknowledgement of its headers.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(_BACKLOG)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


async def _stop_when(stop: asyncio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True


def _now() -> datetime:
    return datetime.now(UTC)
