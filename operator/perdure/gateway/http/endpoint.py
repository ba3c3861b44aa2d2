"""Endpoints: authentication, the handler, and one place where errors become responses.

Endpoints are ASGI callables of our own under Starlette's router: apart from the disk, the way of a checkpoint
through here is most of the time that an agent waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, Protocol, TypeVar

import orjson
import structlog
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from perdure.gateway.authn import Authenticator, Owner
from perdure.gateway.http.budget import Budget
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.log_limiter import LogLimiter
from perdure.gateway.http.problems import (
    ErrorTable,
    HttpProblem,
    Problem,
    expected_problem,
    is_expected,
)
from perdure.gateway.http.request_body import Body, ClientGone
from perdure.gateway.http.request_rates import RequestRates
from perdure.gateway.http.streaming import StreamedResponse

_log = LogLimiter(structlog.get_logger(__name__))

IdentityT = TypeVar("IdentityT")


class Releasable(Protocol):
    """What a request holds until its response was sent."""

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """State of the server that all endpoints share, and the errors that one family's endpoints expect."""

    limits: Limits
    #: Bytes of bodies in memory.
    memory: Budget
    rates: RequestRates
    #: Set when the server stops: streams without an end of their own end then.
    stop: asyncio.Event
    errors: ErrorTable


@dataclass(slots=True)
class Call(Generic[IdentityT]):
    """One authenticated request."""

    identity: IdentityT
    owner: Owner
    #: Names in lower case; of repeated headers the last one.
    headers: Mapping[bytes, bytes]
    query: bytes
    path_params: Mapping[str, Any]
    #: True if the answer will have no body.
    head: bool
    body: Body
    memory: Budget
    #: Shares of budgets and the like, which are released after the response was sent.
    holds: list[Releasable] = field(default_factory=list)

    async def read(self, limit: int, *, what: str) -> bytes:
        """The whole body, at most `limit` bytes. Raises Problem (too-large, too-slow, busy), ClientGone."""
        content, hold = await self.body.read(limit, what=what, budget=self.memory, owner=self.owner)
        if hold is not None:
            self.holds.append(hold)
        return content

    async def reserve(self, size: int) -> None:
        """Memory for `size` bytes of a body that passes through in pieces. Raises Problem(busy)."""
        if size > self.body.uncounted:
            self.holds.append(await self.memory.hold(size, self.owner))


#: May raise Problem, and the errors of its family's table.
Handler = Callable[[Call[IdentityT]], Awaitable[Response]]


class Endpoint(Generic[IdentityT]):
    """One handler as an ASGI application."""

    def __init__(
        self, handler: Handler[IdentityT], authenticator: Authenticator[IdentityT], runtime: Runtime
    ) -> None:
        self._handler = handler
        self._authenticator = authenticator
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        runtime = self._runtime
        body = Body(headers, receive, limits=runtime.limits)
        call: Call[IdentityT] | None = None
        counted: Owner | None = None
        try:
            try:
                identity = await self._authenticator.identify(headers)
                owner = self._authenticator.owner(identity)
                runtime.rates.begin(owner)
                counted = owner
                await runtime.rates.pace(owner)
                query, parameters = scope["query_string"], scope["path_params"]
                head = scope["method"] == "HEAD"
                call = Call(identity, owner, headers, query, parameters, head, body, runtime.memory)
                response = await self._handler(call)
            except ClientGone:
                return
            except Exception as error:
                problem = self._problem(error)
                if problem.kind.status == HTTPStatus.UNAUTHORIZED:
                    problem.headers["WWW-Authenticate"] = self._authenticator.challenge
                response = problem.response()
                if not await body.discard():
                    response.headers["Connection"] = "close"
            await self._send(response, scope, receive, send)
        finally:
            if counted is not None:
                runtime.rates.end(counted)
            for hold in call.holds if call is not None else ():
                hold.release()

    def _problem(self, error: Exception) -> Problem:
        """The response to an error. Only defects are logged: an expected error concerns the caller alone."""
        problem = expected_problem(error, self._runtime.errors)
        if problem is not None:
            return problem
        _log.error("request failed", exc_info=error)
        return Problem(
            HttpProblem.INTERNAL, "this is a defect of the gateway, and its log has the cause; try again"
        )

    async def _send(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._runtime.limits
        try:
            if isinstance(response, StreamedResponse):
                await response.stream(scope, receive, send, limits=limits, stop=self._runtime.stop)
            else:
                async with asyncio.timeout(limits.transfer_time(len(response.body))):
                    await response(scope, receive, send)
        except Exception as error:
            if not isinstance(error, TimeoutError) and not is_expected(error, self._runtime.errors):
                raise
            # Too late for a problem document. The server closes the connection of an unfinished response,
            # and the client sees that bytes are missing.
            _log.warning("answer cut off", error=str(error) or "the client is too slow")


class _ByMethod:
    """Endpoints of one path."""

    def __init__(self, endpoints: Mapping[str, Endpoint[Any]]) -> None:
        # The router passes no other methods, apart from HEAD, which the router adds to GET.
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._endpoints[method](scope, receive, send)


class Routes(Generic[IdentityT]):
    """Builder of the routes of one family."""

    def __init__(self, prefix: str, authenticator: Authenticator[IdentityT], runtime: Runtime) -> None:
        self._prefix = prefix
        self._authenticator = authenticator
        self._runtime = runtime

    def route(self, path: str, **handlers: Handler[IdentityT]) -> BaseRoute:
        """One path below the prefix, with a handler for each method, whose name is the keyword."""
        endpoints = {
            method: Endpoint(handler, self._authenticator, self._runtime)
            for method, handler in handlers.items()
        }
        (only, *more) = endpoints.values()
        return Route(self._prefix + path, _ByMethod(endpoints) if more else only, methods=list(handlers))


def json_response(value: Any, *, status: int = 200) -> Response:
    """A JSON document."""
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
