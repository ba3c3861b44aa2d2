"""Liveness and readiness of the operator, for the kubelet.

Liveness says only that the loop turns. A backlog is no illness: an operator that is restarted for being busy
never catches up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Health:
    """Two questions; each answers None if all is well, else what is wrong."""

    alive: Callable[[], str | None]
    ready: Callable[[], str | None]


async def serve_health(host: str, port: int, health: Health, *, stop: asyncio.Event) -> None:
    """Answer `/healthz` and `/readyz` until `stop` is set."""

    def answer(question: Callable[[], str | None]) -> Callable[[Request], PlainTextResponse]:
        async def respond(_: Request) -> PlainTextResponse:
            fault = question()
            return PlainTextResponse(fault or "ok", status_code=200 if fault is None else 503)

        return respond  # type: ignore[return-value] # Starlette takes coroutines too

    app = Starlette(routes=[Route("/healthz", answer(health.alive)), Route("/readyz", answer(health.ready))])
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)

    async def stop_when_asked() -> None:
        await stop.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as group:
        group.create_task(stop_when_asked())
        await server.serve()
        stop.set()


class _Server(uvicorn.Server):
    """Leaves the signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
