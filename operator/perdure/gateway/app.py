"""The gateway's ASGI application: routes, authentication, and one place where errors become answers.

Endpoints are ASGI callables of our own under Starlette's router: a checkpoint's way through here is most of
the time that an agent waits for, apart from the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import structlog
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from perdure.domain.records import LedgerUnavailable, Superseded
from perdure.gateway.agents import AgentApi, Call
from perdure.gateway.bodies import Body, Budget, ClientGone
from perdure.gateway.limits import Limits
from perdure.gateway.pacing import ProgressPacer
from perdure.gateway.ports import AgentLedger, Verifier
from perdure.gateway.problems import Problem, ProblemType
from perdure.gateway.sessions import Sessions
from perdure.gateway.transfer import Transfer
from perdure.kube.tokens import AgentIdentity, KeysUnavailable
from perdure.ledger.types import CorruptCheckpoint, Overtaken, WrongChecksum

_log = structlog.get_logger(__name__)
#: Time for one readiness check. Seconds.
_READY_TIME = 3.0

Handler = Callable[[Call], Awaitable[Response]]


class AgentEndpoint:
    """One route of the agents' API, as an ASGI application."""

    def __init__(self, handler: Handler, *, sessions: Sessions, limits: Limits) -> None:
        self._handler = handler
        self._sessions = sessions
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        body = Body(headers, receive, limits=self._limits)
        call: Call | None = None
        identity: AgentIdentity | None = None
        try:
            try:
                identity = await self._sessions.identify(headers.get(b"authorization"))
                call = Call(identity, headers, scope["query_string"], scope["path_params"], body)
                response = await self._handler(call)
            except ClientGone:
                return
            except Exception as error:
                if isinstance(error, Superseded) and identity is not None:
                    self._sessions.forget(identity)
                response = as_problem(error).response()
                if not await body.discard():
                    response.headers["Connection"] = "close"
            await self._send(response, scope, receive, send)
        finally:
            for hold in call.holds if call is not None else ():
                hold.release()

    async def _send(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        size = response.size if isinstance(response, Transfer) else len(response.body)
        try:
            async with asyncio.timeout(self._limits.transfer_time(size)):
                await response(scope, receive, send)
        except (CorruptCheckpoint, LedgerUnavailable, TimeoutError) as error:
            # Too late for a problem document: the server closes what is left unfinished, and the client
            # sees that bytes are missing.
            _log.warning("answer cut off", error=str(error) or "the client is too slow")


class _ByMethod:
    """Endpoints of one path."""

    def __init__(self, endpoints: Mapping[str, AgentEndpoint]) -> None:
        # The router lets nothing else through, apart from HEAD, which it adds to GET.
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._endpoints[method](scope, receive, send)


def as_problem(error: Exception) -> Problem:
    """What to answer for whatever went wrong. Only defects are logged: the rest is the caller's to know."""
    match error:
        case Problem():
            return error
        case Superseded():
            return Problem(
                ProblemType.SUPERSEDED,
                "attempt: it is closed or a newer one has taken over; stop, and exit with code 76",
            )
        case LedgerUnavailable():
            return Problem(
                ProblemType.LEDGER_UNAVAILABLE, "ledger: it cannot be reached; send the request again"
            )
        case Overtaken():
            return Problem(
                ProblemType.CHECKPOINT_OVERTAKEN,
                "Perdure-Order: this attempt has saved a newer checkpoint, or another one under this number; "
                "nothing was kept of this one; send what is newest under a higher number",
            )
        case WrongChecksum():
            return Problem(
                ProblemType.CHECKSUM_MISMATCH,
                f"Perdure-Sha256: {error}; nothing was kept, and the checkpoint before is still the newest; "
                "send it again",
            )
        case CorruptCheckpoint():
            _log.error("corrupt checkpoint", error=str(error))
            return Problem(
                ProblemType.CHECKPOINT_CORRUPT,
                "checkpoint: its bytes do not match their checksum; ask for an older one by its sequence: "
                "GET /agent/v1/checkpoints lists them",
                members={"sequence": error.sequence},
            )
        case _:
            _log.error("request failed", exc_info=error)
            return Problem(
                ProblemType.INTERNAL, "this is a defect of the gateway, whose log tells more; try again"
            )


def build_app(
    ledger: AgentLedger,
    verifier: Verifier,
    *,
    pacer: ProgressPacer,
    limits: Limits,
    clock: Callable[[], datetime],
    stopping: Callable[[], bool],
) -> Starlette:
    """The application. `stopping` makes it unready; whoever runs it enters the pacer."""
    sessions = Sessions(ledger, verifier, clock=clock, remembered=limits.sessions)
    api = AgentApi(
        ledger=ledger,
        sessions=sessions,
        pacer=pacer,
        budget=Budget(limits.memory, wait=limits.memory_wait),
        uploads=Budget(limits.uploads, wait=limits.memory_wait),
        limits=limits,
        clock=clock,
    )

    def route(path: str, **handlers: Handler) -> BaseRoute:
        """One path, with a handler for each method."""
        endpoints = {
            method: AgentEndpoint(handler, sessions=sessions, limits=limits)
            for method, handler in handlers.items()
        }
        (only, *more) = endpoints.values()
        endpoint = _ByMethod(endpoints) if more else only
        return Route("/agent/v1" + path, endpoint, methods=list(handlers))

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(_: Request) -> Response:
        if stopping():
            return Problem(ProblemType.NOT_READY, "the gateway is stopping").response()
        return await _readiness(ledger, verifier, clock())

    return Starlette(
        # The most frequent first: the router tries them in order.
        routes=[
            route("/checkpoints", PUT=api.save_checkpoint, GET=api.list_checkpoints),
            route("/progress", POST=api.progress),
            route("/heartbeat", POST=api.heartbeat),
            route("/checkpoints/latest", GET=api.latest_checkpoint),
            route("/checkpoints/{sequence:sequence}", GET=api.one_checkpoint),
            route("/task", GET=api.task),
            route("/result", POST=api.result),
            route("/failure", POST=api.failure),
            Route("/healthz", healthy),
            Route("/readyz", ready),
        ],
        exception_handlers={HTTPException: _http_error},
    )


#: Of a number in a path.
_MOST_DIGITS = 80


class _SequenceConvertor(Convertor[int]):
    """The number of a checkpoint in a path. Starlette's own would raise, as `int` does, for 4,301 digits."""

    regex = "[0-9]+"

    def convert(self, value: str) -> int:
        # No checkpoint has the number 0.
        return int(value) if len(value) <= _MOST_DIGITS else 0

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("sequence", _SequenceConvertor())


async def _readiness(ledger: AgentLedger, verifier: Verifier, now: datetime) -> Response:
    try:
        async with asyncio.timeout(_READY_TIME):
            await ledger.ready()
            await verifier.warm(now=now)
    except KeysUnavailable as error:
        return Problem(ProblemType.NOT_READY, f"keys: {error}").response()
    except (LedgerUnavailable, TimeoutError) as error:
        return Problem(
            ProblemType.NOT_READY, f"ledger: {str(error) or 'it did not answer in time'}"
        ).response()
    return PlainTextResponse("ok")


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = dict(error.headers or {})
        methods = allowed["Allow"] = ", ".join(sorted(allowed.get("Allow", "").split(", ")))
        return Problem(
            ProblemType.METHOD_NOT_ALLOWED,
            f"{request.method} {request.url.path}: use {methods}",
            headers=allowed,
        ).response()
    return Problem(
        ProblemType.NOT_FOUND, f"{request.url.path}: no such route; agents' routes start with /agent/v1"
    ).response()
