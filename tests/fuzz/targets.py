"""What is fuzzed, one function per kind of input. An exception that leaves one is a defect.

All of them run in the event loop of one worker process, next to a gateway on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from perdure.domain.admission.accept import Refused, TemplateMissing
from perdure.domain.engine.plan import compile_plan
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.templating import compile_value
from perdure.gateway.http.server import open_listener
from perdure.gateway.server import serve
from perdure.kube.errors import ApiError
from perdure.kube.tokens import InvalidToken, KeysUnavailable, TokenVerifier
from perdure.settings import Settings
from perdure.steps import KINDS
from tests.fuzz import generate
from tests.support.manifests import accept, check_workflow
from tests.unit.gateway.memory import MemoryLedger, MemoryVerifier

_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
#: Seconds for the answer to one request; half a request has none.
_PATIENCE: Final = 0.1


@dataclass(frozen=True)
class Servers:
    """The servers of a worker."""

    port: int
    ledger: MemoryLedger
    verifier: TokenVerifier


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """The product's gateway on a ledger in memory, and its verifier of tokens without keys."""

    async def fetch(_: str) -> Any:
        raise ApiError(503, "ServiceUnavailable", "no keys")

    listener = open_listener("127.0.0.1", 0)
    ledger, stop = MemoryLedger(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(Settings(), ledger=ledger, verifier=MemoryVerifier(), stop=stop, listener=listener)
        )
        try:
            yield Servers(listener.getsockname()[1], ledger, TokenVerifier(fetch, audience="perdure"))
        finally:
            stop.set()


async def expression(chance: Random, _: Servers) -> None:
    """An expression is compiled, and evaluated if it compiles."""
    text = "${" + generate.expression(chance) + "}"
    with contextlib.suppress(ExpressionError):
        compile_value(text)


async def manifest(chance: Random, _: Servers) -> None:
    """A Workflow is checked with all its faults; if it has none, its plan is compiled."""
    made = generate.workflow(chance)
    checked = check_workflow(made)
    if checked.problems:
        return
    with contextlib.suppress(Refused, TemplateMissing, ExpressionError):
        compile_plan(json.loads(json.dumps(accept("Workflow", made["spec"]))), KINDS)


async def result(chance: Random, servers: Servers) -> None:
    """A body is sent to a route that takes JSON."""
    data = generate.json_bytes(chance)
    path = chance.choice(["result", "failure", "progress"])
    lines = (
        f"Content-Length: {len(data)}\r\nContent-Type: application/json\r\nAuthorization: Bearer good-pod-1"
    )
    await _send(servers, f"POST /agent/v1/{path} HTTP/1.1\r\nHost: g\r\n{lines}\r\n\r\n".encode() + data)


async def request(chance: Random, servers: Servers) -> None:
    """A request is sent, right or damaged."""
    await _send(servers, generate.request(chance))


async def token(chance: Random, servers: Servers) -> None:
    """A token is refused."""
    with contextlib.suppress(InvalidToken, KeysUnavailable):
        await servers.verifier.verify(generate.token(chance), now=_NOW)


async def _send(servers: Servers, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", servers.port)
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                writer.write(data)
                writer.write_eof()
                await writer.drain()
                answer = await reader.read(65536)
                status = answer[9:12]
                assert status != b"500", f"{data[:300]!r} gave {answer[:600]!r}"
    finally:
        writer.close()
        servers.ledger.reports.clear()
        servers.ledger.reported.clear()
        servers.ledger.kept.clear()


Target = Callable[[Random, Servers], Awaitable[None]]
#: Targets with the share of inputs that each gets.
TARGETS: Final[dict[str, tuple[Target, int]]] = {
    "expression": (expression, 60),
    "manifest": (manifest, 15),
    "result": (result, 10),
    "request": (request, 10),
    "token": (token, 5),
}
