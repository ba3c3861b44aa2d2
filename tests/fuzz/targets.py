"""What is fuzzed, one function per kind of input. An exception that leaves one is a defect.

All of them run in the event loop of one worker process, next to a gateway on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from perdure.control.evaluation.in_process import InProcessEvaluator
from perdure.control.evaluation.pool import EvaluationPool
from perdure.domain.admission.accept import Refused, TemplateMissing
from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.view import RunView
from perdure.domain.expressions.cel import ExpressionError, compile_expression
from perdure.domain.expressions.evaluation import Answer, Evaluation, EvaluationPending
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase
from perdure.domain.records import RunRecord, RunState
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
_UID: Final = "0b7c5c2e-6f0e-4b0f-9a51-1c4e1f1d8a11"
#: Seconds for the answer to one request; half a request has none.
_PATIENCE: Final = 0.1
#: CPU seconds of the event loop that one expression may take which the operator evaluates in place.
_IN_PLACE: Final = 0.05
#: Share of the evaluations that go to the children. The rest is evaluated here, under its own budget alone.
_TO_CHILDREN: Final = 0.1
#: Decisions about one run until everything that can be evaluated has been.
_DECISIONS: Final = 8
#: What expressions see.
_SEEN: Final[dict[str, Any]] = {
    "inputs": {
        "s": "text" * 50,
        "n": [1, 2, 3, -7, 2**62],
        "m": {"k": 1, "": [None]},
        "x": 0.5,
        "output": {},
    },
    "steps": {
        "a": {"phase": "Succeeded", "output": {"key": [1, "x"]}, "startedAt": _NOW, "finishedAt": _NOW},
        "b": {"phase": "Failed", "reason": "Error", "exitCode": 3, "outputs": [1, None, "\u202e"]},
        "c": {"phase": "Skipped"},
    },
    "workflow": {"name": "x", "namespace": "n", "uid": "u"},
    "item": {"value": "v", "key": 2},
    "index": 4,
    "last": {"output": [True, 1.5]},
    "attempt": {"exitCode": 1, "reason": "Error"},
}


@dataclass(frozen=True)
class Servers:
    """The servers of a worker."""

    port: int
    ledger: MemoryLedger
    verifier: TokenVerifier
    children: EvaluationPool


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """The product's gateway on a ledger in memory, its verifier without keys, its evaluation children."""

    async def fetch(_: str) -> Any:
        raise ApiError(503, "ServiceUnavailable", "no keys")

    listener = open_listener("127.0.0.1", 0)
    ledger, stop = MemoryLedger(), asyncio.Event()
    children = EvaluationPool(children=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(Settings(), ledger=ledger, verifier=MemoryVerifier(), stop=stop, listener=listener)
        )
        evaluating = group.create_task(children.run())
        verifier = TokenVerifier(fetch, audience="perdure")
        try:
            yield Servers(listener.getsockname()[1], ledger, verifier, children)
        finally:
            evaluating.cancel()
            stop.set()


async def expression(chance: Random, servers: Servers) -> None:
    """An expression is compiled, and evaluated if it compiles: in place if it is cheap, else as a request.

    What is evaluated in place is evaluated in the operator's event loop, and must not hold it.
    """
    try:
        compiled = compile_expression(generate.expression(chance))
    except ExpressionError:
        return
    if not compiled.names <= _SEEN.keys():
        return
    evaluation = Evaluation()
    began = time.thread_time()
    try:
        with contextlib.suppress(ExpressionError):
            evaluation.evaluate(compiled, _SEEN)
    except EvaluationPending:
        await _answers(chance, servers, evaluation)
    else:
        taken = time.thread_time() - began
        assert taken < _IN_PLACE, f"{taken:.3f} CPU seconds in place: {compiled.source[:300]}"


async def manifest(chance: Random, servers: Servers) -> None:
    """A Workflow is checked with all its faults; if it has none, its first decisions are made."""
    made = generate.workflow(chance)
    checked = check_workflow(made)
    if checked.problems:
        return
    try:
        spec = accept("Workflow", made["spec"])
    except (Refused, TemplateMissing):
        return
    spec = json.loads(json.dumps(spec))
    run = RunRecord(
        uid=_UID,
        kind="Workflow",
        namespace="n",
        name="x",
        generation=1,
        shard=shard_of(_UID),
        phase=Phase.PENDING,
        spec=spec,
        created_at=_NOW,
    )
    view = RunView(compile_plan(spec, KINDS), RunState(run=run, steps={}, tasks={}, attempts={}))
    answers: dict[str, Answer] = {}
    for _ in range(_DECISIONS):
        decision = decide(view, Observed(answers=answers), _NOW)
        if not decision.requests:
            assert decision.commit is not None, "the first decision about a run has something to commit"
            return
        evaluation = Evaluation()
        evaluation.requests.update(decision.requests)
        answers |= await _answers(chance, servers, evaluation)


async def _answers(chance: Random, servers: Servers, evaluation: Evaluation) -> dict[str, Answer]:
    """The answers to requests, each of which is a JSON value or an error."""
    evaluator = servers.children if chance.random() < _TO_CHILDREN else InProcessEvaluator()
    # A namespace whose evaluations overrun is slowed: many namespaces, so that the fuzzer is not.
    namespace = f"n{chance.randrange(10_000)}"
    found = dict(await evaluator.evaluate(namespace, list(evaluation.requests.values())))
    assert found.keys() == evaluation.requests.keys()
    for answer in found.values():
        assert answer.error is None or answer.error, "an error has a text"
        json.dumps(answer.value, allow_nan=False)
    return found


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
