"""HTTP server of the gateway, whose stop completes the requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import uvicorn
from starlette.types import ASGIApp

from perdure.domain.records import LedgerUnavailable
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.agent_api.ports import AgentLedger, Verifier
from perdure.gateway.agent_api.progress_throttle import ProgressThrottle
from perdure.gateway.agent_api.routes import AgentRoutes
from perdure.gateway.app import build_app
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import HttpProblem, Problem
from perdure.kube.tokens import KeysUnavailable
from perdure.settings import Settings

#: Longer than the interval of the agents' heartbeats, so that an agent keeps its connection. Seconds.
_KEEP_ALIVE = 75
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the caller of `serve` handles the signals of the process."""

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
    agent_limits: AgentLimits | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve the product's route families until `stop` is set, and finish the requests in flight.

    `listener` replaces the address in the settings. Raises OSError if that address cannot be bound.
    """
    limits = limits or Limits()
    agent_limits = agent_limits or AgentLimits()
    bound = listener or listen(settings.gateway_host, settings.gateway_port)
    interval = agent_limits.progress_interval
    async with ProgressThrottle(ledger, clock=_now, interval=interval) as throttle:
        agents = AgentRoutes(ledger, verifier, throttle=throttle, limits=agent_limits, clock=_now)

        async def ready() -> None:
            await _check_ready(ledger, verifier)

        app = build_app([agents], ready=ready, stop=stop, limits=limits)
        await serve_app(app, bound, stop=stop, drain=limits.drain)


async def serve_app(app: ASGIApp, listener: socket.socket, *, stop: asyncio.Event, drain: int) -> None:
    """Serve one application until `stop` is set. Then accept nothing new, and finish what is in flight.

    Requests that have not ended `drain` seconds after the stop are cancelled. Closes `listener`.
    """
    server = _Server(
        uvicorn.Config(
            app,
            # Named, so that requests cost and mean the same in every environment: the parser in pure Python
            # takes twice the CPU for a small request.
            http="httptools",
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=drain,
            backlog=_BACKLOG,
        )
    )
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_stop_when(stop, server), name="gateway-stop")
        try:
            await server.serve(sockets=[listener])
        finally:
            waiting.cancel()
            listener.close()


async def _check_ready(ledger: AgentLedger, verifier: Verifier) -> None:
    """Return if the ledger answers and tokens can be verified. Raises Problem(not-ready)."""
    try:
        await ledger.ready()
        await verifier.warm(now=_now())
    except KeysUnavailable as error:
        raise Problem(HttpProblem.NOT_READY, f"keys: {error}") from None
    except LedgerUnavailable as error:
        detail = str(error) or "it did not answer in time"
        raise Problem(HttpProblem.NOT_READY, f"ledger: {detail}") from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only for sockets whose protocol is named. With the algorithm on,
    # every response waits 40 ms for the client's delayed acknowledgement of the headers.
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
