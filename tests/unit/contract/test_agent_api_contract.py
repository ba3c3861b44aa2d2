"""The contract of the agents' API: the gateway on a ledger in memory, and `perdure_agent.testing`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, fields

import aiohttp
import pytest
from tests.contract.agent_api import CASES, Case
from tests.contract.client import SMALL, Subject
from tests.unit.gateway.memory import MemoryLedger, MemoryVerifier, session

from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.agent_api.pod_tokens import EXPIRED_RETRY_AFTER
from perdure.gateway.agent_api.problems import AgentProblem
from perdure.gateway.http.problems import HttpProblem
from perdure.gateway.http.server import open_listener
from perdure.gateway.server import serve
from perdure.settings import Settings
from perdure_agent.testing import _api, _problems, _server, _task


class Product(Subject):
    """The gateway of the operator's package."""

    def __init__(self, client: aiohttp.ClientSession, url: str, ledger: MemoryLedger) -> None:
        super().__init__(client, url)
        self._ledger = ledger
        self._attempt = 1

    @property
    def token(self) -> str:
        return f"good-pod-{self._attempt}"

    @property
    def unrecorded_token(self) -> str:
        return "good-pod-999"

    @property
    def expired_token(self) -> str:
        return f"expired-pod-{self._attempt}"

    async def supersede(self) -> None:
        self._ledger.close(f"pod-{self._attempt}")
        self._attempt += 1
        pod = f"pod-{self._attempt}"
        self._ledger.sessions[pod] = session(pod, attempt=self._attempt)

    async def corrupt(self, sequence: int) -> None:
        self._ledger.damaged.add(sequence)


class InMemory(Subject):
    """The gateway of `perdure_agent.testing`."""

    def __init__(self, client: aiohttp.ClientSession, url: str, task: _task.Task) -> None:
        super().__init__(client, url)
        self._task = task

    @property
    def token(self) -> str:
        return self._task.attempts[-1].token

    @property
    def unrecorded_token(self) -> str:
        unknown = _task.Attempt(999, "unknown", known=False)
        if self._task.attempts[0].number != 999:
            self._task.attempts.insert(0, unknown)
        return unknown.token

    @property
    def expired_token(self) -> str:
        self._task.attempts[-1].expired.add("earlier")
        return "earlier"

    async def supersede(self) -> None:
        newest = self._task.attempts[-1]
        newest.open = False
        self._task.attempts.append(_task.Attempt(newest.number + 1, f"token-{newest.number + 1}"))

    async def corrupt(self, sequence: int) -> None:
        self._task.corrupt.add(sequence)


@asynccontextmanager
async def product(client: aiohttp.ClientSession) -> AsyncIterator[Subject]:
    ledger = MemoryLedger()
    listener = open_listener("127.0.0.1", 0)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(
                Settings(),
                ledger=ledger,
                verifier=MemoryVerifier(),
                stop=stop,
                agent_limits=AgentLimits(**SMALL),
                listener=listener,
            )
        )
        yield Product(client, f"http://127.0.0.1:{listener.getsockname()[1]}", ledger)
        stop.set()


@asynccontextmanager
async def in_memory(client: aiohttp.ClientSession) -> AsyncIterator[Subject]:
    task = _task.Task(
        namespace="team-a",
        workflow="audit",
        name="audit-analyse-0-abcde",
        step="analyse",
        index=0,
        input={"path": "a.py"},
        limits=_task.Limits(**SMALL),
        attempts=[_task.Attempt(1, "token-1")],
    )

    async def exchange(message: _problems.Message) -> _problems.Response:
        return _api.respond(task, message, now=12.5)

    listener, url = _server.bind(0)
    with closing(listener):
        async with _server.listening(exchange, listener=listener):
            yield InMemory(client, url, task)


@pytest.mark.parametrize("subject", [product, in_memory], ids=["gateway", "testing"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_contract(case: Case, subject: type[Subject]) -> None:
    async with aiohttp.ClientSession() as client, subject(client) as api:
        await case(api)


def test_the_limits_are_the_gateway_s() -> None:
    ours = asdict(_task.Limits())
    assert ours == {name: getattr(AgentLimits(), name) for name in ours}
    assert {field.name for field in fields(AgentLimits)} >= set(SMALL)


def test_the_wait_for_an_expired_token_is_the_gateway_s() -> None:
    assert _problems.EXPIRED_RETRY_AFTER == EXPIRED_RETRY_AFTER


def test_the_problems_are_the_gateway_s() -> None:
    known = {problem.slug: problem for family in (HttpProblem, AgentProblem) for problem in family}
    for kind, (status, title) in _problems.PROBLEMS.items():
        assert (known[kind].status, known[kind].title) == (status, title)
