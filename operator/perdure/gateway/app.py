"""ASGI application of the gateway: routes of all families, health, and the errors common to all families."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from perdure.domain.records import LedgerUnavailable
from perdure.gateway.http.budget import Budget
from perdure.gateway.http.endpoint import Runtime
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import ErrorTable, HttpProblem, Problem
from perdure.gateway.http.request_rates import RequestRates

#: Longest time of one readiness check. Seconds.
READY_TIME = 3.0


def _ledger_unavailable(_: LedgerUnavailable) -> Problem:
    return Problem(HttpProblem.LEDGER_UNAVAILABLE, "ledger: it cannot be reached; send the request again")


#: Errors that have the same cause and the same remedy in every family.
COMMON_ERRORS: Final[ErrorTable] = {LedgerUnavailable: _ledger_unavailable}


class RouteFamily(Protocol):
    """The routes of one group of callers, who share a prefix, an authenticator and a table of errors."""

    @property
    def prefix(self) -> str:
        """Start of all paths, such as `/agent/v1`. No two families share a prefix."""
        ...

    @property
    def title(self) -> str:
        """The family in error texts, such as `agents' routes`."""
        ...

    @property
    def errors(self) -> ErrorTable:
        """Errors of the handlers, in addition to the common ones, which an entry here overrides."""
        ...

    def routes(self, runtime: Runtime) -> list[BaseRoute]:
        """The routes, the most frequent first: the router tries them in order."""
        ...


def build_app(
    families: Sequence[RouteFamily],
    *,
    ready: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    limits: Limits | None = None,
) -> Starlette:
    """The application.

    `ready` returns once requests can be served, and raises Problem otherwise. `stop` is set when the server
    stops: the application is not ready from then on, and streams end.
    """
    limits = limits or Limits()
    memory = Budget(
        limits.memory,
        wait=limits.memory_wait,
        per_caller=limits.memory_per_caller,
        per_namespace=limits.memory_per_namespace,
    )
    rates = RequestRates(limits, clock=time.monotonic)
    routes: list[BaseRoute] = []
    # One flat list instead of Starlette's mounts: a mount redirects its bare prefix, and costs every request
    # a second router.
    for family in families:
        errors = {**COMMON_ERRORS, **family.errors}
        routes += family.routes(Runtime(limits=limits, memory=memory, rates=rates, stop=stop, errors=errors))

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        if stop.is_set():
            return Problem(HttpProblem.NOT_READY, "the gateway is stopping").response()
        try:
            async with asyncio.timeout(READY_TIME):
                await ready()
        except Problem as problem:
            return problem.response()
        except TimeoutError:
            return Problem(HttpProblem.NOT_READY, "ledger: it did not answer in time").response()
        return PlainTextResponse("ok")

    async def refused(request: Request, error: Exception) -> Response:
        """The response where the router has no endpoint."""
        if isinstance(error, HTTPException) and error.status_code == 405:
            return _method_not_allowed(request, error).response()
        prefixes = ", ".join(f"{family.title} start with {family.prefix}" for family in families)
        return Problem(HttpProblem.NOT_FOUND, f"{request.url.path}: no such route; {prefixes}").response()

    routes += [Route("/healthz", healthz), Route("/readyz", readyz)]
    return Starlette(routes=routes, exception_handlers={HTTPException: refused})


def _method_not_allowed(request: Request, error: HTTPException) -> Problem:
    allowed = dict(error.headers or {})
    methods = allowed["Allow"] = ", ".join(sorted(allowed.get("Allow", "").split(", ")))
    return Problem(
        HttpProblem.METHOD_NOT_ALLOWED, f"{request.method} {request.url.path}: use {methods}", headers=allowed
    )
