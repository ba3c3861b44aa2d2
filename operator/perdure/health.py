"""Liveness and readiness of the operator, for the kubelet.

Liveness says only that the event loop turns. A backlog does not count: an operator that is restarted because
it is busy never catches up. aiohttp serves the probes, since kopf has loaded aiohttp anyway; the gateway's
server would be one library more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

#: Seconds that a probe under way is waited for at the end.
_SHUTDOWN_SECONDS = 1.0
#: Lines of findings in one answer.
MAX_FINDINGS = 100


@dataclass(frozen=True, slots=True)
class Health:
    """The two probes; each returns None if the process is well, else the fault as text."""

    alive: Callable[[], str | None]
    ready: Callable[[], str | None]
    #: Lines for the answer of a process that is ready: what it leaves out or passes over.
    findings: Callable[[], list[str]] = list


async def serve_health(host: str, port: int, health: Health, *, stop: asyncio.Event) -> None:
    """Answer `/healthz` and `/readyz` until `stop` is set. Raises OSError if the port is taken."""

    def answer(
        question: Callable[[], str | None], findings: Callable[[], list[str]] = list
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(_: web.Request) -> web.Response:
            fault = question()
            return web.Response(
                text="\n".join([fault or "ok", *findings()[:MAX_FINDINGS]]),
                status=200 if fault is None else 503,
            )

        return respond

    app = web.Application()
    app.router.add_get("/healthz", answer(health.alive))
    app.router.add_get("/readyz", answer(health.ready, health.findings))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        await stop.wait()
    finally:
        await runner.cleanup()
