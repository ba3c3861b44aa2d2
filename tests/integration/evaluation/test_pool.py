"""Evaluation children: what overruns or dies is answered by an error, and concerns nothing else."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.evaluation.requests import request

from perdure.control.evaluation.in_process import InProcessEvaluator
from perdure.control.evaluation.pool import EvaluationPool
from perdure.domain.expressions.evaluation import Answer, EvaluationRequest

#: Longer than any evaluation may take.
DEADLINE = 60.0


@asynccontextmanager
async def pool(children: int = 1) -> AsyncIterator[EvaluationPool]:
    made = EvaluationPool(children=children)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        running = group.create_task(made.run())
        try:
            yield made
        finally:
            running.cancel()


async def asked(made: EvaluationPool, *requests: EvaluationRequest, namespace: str = "team") -> list[Answer]:
    """Answers to all of the requests, in their order."""
    answers: dict[str, Answer] = {}
    while missing := [it for it in requests if it.key not in answers]:
        answers.update(await made.evaluate(namespace, missing))
    return [answers[it.key] for it in requests]


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def is_too_much(answer: Answer) -> bool:
    return answer.error is not None and "too much work" in answer.error


RANGES = "lists.range(10000)"
#: What takes for ever, or needs more memory than there is.
DEAR: list[tuple[str, dict[str, Any]]] = [
    (f"{RANGES}.exists(a, {RANGES}.exists(b, {RANGES}.exists(c, a+b+c < 0)))", {}),
    (f"{RANGES}.all(a, {RANGES}.all(b, a + b >= 0))", {}),
    (f"{RANGES}.map(a, {RANGES})", {}),
    (f'{RANGES}.map(a, "x".matches("(a{{900}}){{90}}"))', {}),
    (f'{RANGES}.filter(a, inputs.s.matches("(a|b|c){{500}}" + string(a)))', {"inputs": {"s": "abc" * 999}}),
    ('inputs.s.replace("a", inputs.s.substring(0, 20000))', {"inputs": {"s": "a" * 60_000}}),
    (f"{RANGES}.map(a, inputs.s).join(inputs.s)", {"inputs": {"s": "é" * 60_000}}),
    (f"{RANGES}.map(a, inputs.s + inputs.s)", {"inputs": {"s": "\U0001f600" * 60_000}}),
    (f"{RANGES}.map(a, {RANGES}.map(b, [a, b])).flatten().size()", {}),
    ("inputs.l.map(a, inputs.l.map(b, inputs.l))", {"inputs": {"l": [["x"] * 10] * 2000}}),
]


@pytest.mark.parametrize(("source", "values"), DEAR, ids=[source[:40] for source, _ in DEAR])
async def test_what_is_too_dear_ends_as_an_error_and_the_loop_is_free(
    source: str, values: dict[str, Any]
) -> None:
    # A collection of all that the tests have loaded would count as well.
    gc.collect()
    gc.freeze()
    async with pool() as made:
        longest = 0.0

        async def turns() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)

        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(turns())
            (answer,) = await asked(made, request(source, values))
            measuring.cancel()
        assert is_too_much(answer)
        assert longest < 0.05
        # The next one is answered, by this child or another.
        assert await asked(made, request("[1].map(x, x)")) == [Answer([1])]


async def test_requests_of_the_same_batch_are_answered_whatever_becomes_of_one() -> None:
    fine = [request(f"[{number}].map(x, x + 1)") for number in range(40)]
    dear = [request(source, values) for source, values in DEAR[3:6]]
    async with pool() as made:
        answers = await asked(made, *fine[:20], *dear, *fine[20:])
    assert [it.value for it in answers[:20]] == [[number + 1] for number in range(20)]
    assert all(map(is_too_much, answers[20:23]))
    assert [it.value for it in answers[23:]] == [[number + 1] for number in range(20, 40)]


async def test_a_child_that_is_killed_is_replaced_and_the_answer_comes_from_the_next() -> None:
    async with pool() as made:
        await asked(made, request("[1].map(x, x)"))
        (child,) = made.alive.values()
        os.kill(child.pid, signal.SIGKILL)
        # Two requests: neither is known to be the cause, so both are tried again.
        answers = await asked(made, request("[2].map(x, x)"), request("[3].map(x, x)"))
        assert [it.value for it in answers] == [[2], [3]]
        (other,) = made.alive.values()
        assert other.pid != child.pid


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGBUS])
async def test_a_death_while_a_single_request_is_evaluated_is_that_requests_error(
    number: signal.Signals,
) -> None:
    async with pool() as made:
        await asked(made, request("[1].map(x, x)"))
        (child,) = made.alive.values()
        os.kill(child.pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(asked(made, request("[2].map(x, x)")))
            for _ in range(10):
                await asyncio.sleep(0)
            os.kill(child.pid, number)
            os.kill(child.pid, signal.SIGCONT)
        assert is_too_much(answering.result()[0])
        assert await asked(made, request("[3].map(x, x)")) == [Answer([3])]


async def test_a_child_that_stands_still_is_killed_by_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perdure.control.evaluation.worker.WALL_SECONDS", 0.3)
    async with pool() as made:
        await asked(made, request("[1].map(x, x)"))
        (child,) = made.alive.values()
        os.kill(child.pid, signal.SIGSTOP)
        assert is_too_much((await asked(made, request("[2].map(x, x)")))[0])
        assert await asked(made, request("[3].map(x, x)")) == [Answer([3])]
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


async def test_one_namespace_that_overruns_does_not_hold_up_another() -> None:
    async with pool(children=2) as made:
        dear = [request(f"{RANGES}.map(a, {RANGES}.map(b, a + b + {number}))") for number in range(20)]
        async with asyncio.TaskGroup() as group:
            hostile = group.create_task(asked(made, *dear, namespace="hostile"))
            for number in range(100):
                answer = await asked(made, request(f"[{number}].map(x, x)"), namespace="other")
                assert answer == [Answer([number])]
            assert not hostile.done()
            hostile.cancel()


async def test_no_child_is_left_when_the_pool_ends() -> None:
    async with pool(children=2) as made:
        await asked(made, request("[1].map(x, x)"))
        children = list(made.alive.values())
    assert made.alive == {}
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


async def test_a_child_has_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_DATABASE_URL", "postgres://secret")
    async with pool() as made:
        await asked(made, request("[1].map(x, x)"))
        (child,) = made.alive.values()
        environment = environment_of(child.pid)
    assert environment
    assert b"secret" not in environment


async def test_nothing_of_a_child_reaches_the_error_output(capfd: pytest.CaptureFixture[str]) -> None:
    async with pool() as made:
        (answer,) = await asked(made, request("[inputs.s.charAt(5)].map(x, x)", {"inputs": {"s": "a"}}))
        assert answer.error is not None
    assert "charAt" not in capfd.readouterr().err


SAME: list[tuple[str, dict[str, Any]]] = [
    ("[1, 2.5, 'é', null, true, {'b': 1, 'a': 2}].map(x, x)", {}),
    ("[steps.a.startedAt].map(t, t)", {}),
    ("[steps.a.finishedAt - steps.a.startedAt].map(d, d)", {}),
    ("steps.b.output.map(x, x)", {}),
    ("[item.k, index].map(x, x)", {"item": {"k": "ключ"}, "index": 3}),
    ("[1].map(x, x / 0)", {}),
    ("[inputs.nope].map(x, x)", {"inputs": {}}),
    ("[duration('1h')].map(x, x)", {}),
    ("[9223372036854775807].map(x, x + 1)", {}),
    ("inputs.m.map(k, inputs.m[k])", {"inputs": {"m": {"z": 1, "a": [2]}}}),
    ("lists.range(10001)", {}),
    ("'a,b'.split(',')", {}),
    (f"{RANGES}.all(a, {RANGES}.all(b, a + b >= 0))", {}),
]


@pytest.mark.parametrize(("source", "values"), SAME, ids=[source[:40] for source, _ in SAME])
async def test_a_child_answers_as_the_evaluator_in_process_does(source: str, values: dict[str, Any]) -> None:
    steps = {
        "a": {
            "phase": "Succeeded",
            "attempts": 1,
            "startedAt": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            "finishedAt": datetime(2026, 1, 2, 4, 0, tzinfo=UTC),
        },
        "b": {"phase": "Skipped", "attempts": 0},
    }
    made_request = request(source, {"steps": steps, **values})
    async with pool() as made:
        in_child = await asked(made, made_request)
    in_process = (await InProcessEvaluator().evaluate("team", [made_request]))[made_request.key]
    assert in_child == [in_process]
