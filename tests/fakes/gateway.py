"""Gateway processes: the product's own session cache in front of the fences of the fake ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from perdure.domain.records import LedgerUnavailable, Report, Superseded
from perdure.gateway.agent_api.ports import AgentLedger
from perdure.gateway.agent_api.sessions import Sessions
from perdure.gateway.http.problems import Problem
from perdure.kube.tokens import AgentIdentity
from perdure.ledger.types import AgentSession, Overtaken
from tests.fakes.clock import Process, now
from tests.fakes.faults import Faults
from tests.fakes.ledger import FakeLedger
from tests.fakes.network import OUTSIDE

Result = TypeVar("Result")

#: Pods whose sessions a gateway remembers: few, so that it also forgets some.
REMEMBERED: Final = 4
#: Seconds after which an agent gives a call up.
PATIENCE: Final = 12.0


class Unavailable(Exception):
    """No response, or a 503: the agent is to try again."""


class _Sessions:
    """The part of the ledger that `Sessions` uses."""

    def __init__(self, ledger: FakeLedger) -> None:
        self._ledger = ledger

    async def attempt_for_pod(self, namespace: str, pod_uid: str) -> AgentSession | None:
        return await self._ledger.call(lambda: self._ledger.attempt_for_pod(namespace, pod_uid))


class Gateway:
    """One gateway; `restart` replaces a killed process."""

    def __init__(self, ledger: FakeLedger, faults: Faults) -> None:
        self._ledger = ledger
        self._faults = faults
        self._open: dict[int, asyncio.Future[tuple[Exception | None, Any]]] = {}
        self._calls = 0
        self.away = False
        self.restart()

    def restart(self) -> None:
        """Start a process with an empty session cache."""
        self.process = Process("gateway")
        ledger = cast(AgentLedger, _Sessions(self._ledger))
        self._sessions = Sessions(ledger, cached=REMEMBERED)
        self.away = False

    def kill(self) -> None:
        self.process.stop()
        self.away = True
        for answer in self._open.values():
            if not answer.done():
                answer.set_result((Unavailable("connection reset"), None))
        self._open.clear()

    async def call(
        self, handle: Callable[[Sessions], Coroutine[Any, Any, Result]], identity: AgentIdentity
    ) -> Result:
        """An agent's request. Raises Superseded, Unavailable."""
        faults, loop = self._faults, asyncio.get_running_loop()
        await asyncio.sleep(faults.between(0.0005, 0.008))
        if self.away or (faults.error_bursts["gateway"] and not faults.quiesced and faults.chance(0.5)):
            raise Unavailable("connection refused")
        answer: asyncio.Future[tuple[Exception | None, Any]] = loop.create_future()
        self._calls += 1
        number = self._calls
        self._open[number] = answer
        timer = loop.call_later(PATIENCE, _give_up, answer)
        if faults.happens("late"):
            # The sender gives up while the request is in flight.
            loop.call_later(faults.between(0.05, 8.0), self._begin, handle, identity, None, context=OUTSIDE)
            await asyncio.sleep(faults.between(0.001, 1.0))
            raise Unavailable("no answer in time")
        self._begin(handle, identity, answer)
        try:
            error, result = await answer
        finally:
            timer.cancel()
            self._open.pop(number, None)
        if faults.happens("answer lost"):
            raise Unavailable("the answer was lost")
        if error is not None:
            raise error
        return cast(Result, result)

    def _begin(
        self,
        handle: Callable[[Sessions], Coroutine[Any, Any, Any]],
        identity: AgentIdentity,
        answer: asyncio.Future[tuple[Exception | None, Any]] | None,
    ) -> None:
        if not self.away:
            self.process.start(self._serve(handle, identity, answer))

    async def _serve(
        self,
        handle: Callable[[Sessions], Coroutine[Any, Any, Any]],
        identity: AgentIdentity,
        answer: asyncio.Future[tuple[Exception | None, Any]] | None,
    ) -> None:
        outcome: tuple[Exception | None, Any]
        try:
            outcome = None, await handle(self._sessions)
        except Superseded as error:
            self._sessions.forget(identity)
            outcome = error, None
        except (LedgerUnavailable, Problem) as error:
            outcome = Unavailable(str(error)), None
        except Overtaken as error:
            outcome = error, None
        if answer is not None and not answer.done():
            answer.set_result(outcome)


def _give_up(answer: asyncio.Future[tuple[Exception | None, Any]]) -> None:
    if not answer.done():
        answer.set_result((Unavailable("no answer in time"), None))


class Client:
    """The calls of `/agent/v1` that agents make."""

    def __init__(self, gateways: list[Gateway], ledger: FakeLedger, faults: Faults, pod: Any) -> None:
        metadata = pod["metadata"]
        self._identity = AgentIdentity(metadata["namespace"], metadata["name"], metadata["uid"], "default")
        self._gateways = gateways
        self._ledger = ledger
        self._faults = faults

    @property
    def pod_uid(self) -> str:
        return self._identity.pod_uid

    async def restore(self) -> int:
        """The last part of the work that was saved."""

        async def handle(sessions: Sessions) -> int:
            session = await sessions.for_reading(self._identity)
            return await self._ledger.call(lambda: self._ledger.open_latest(session))

        return await self._call(handle)

    async def checkpoint(self, part: int | None, text: str, *, order: int) -> int:
        async def handle(sessions: Sessions) -> int:
            session = await sessions.for_writing(self._identity)
            at = now()
            return await self._ledger.call(
                lambda: self._ledger.write_checkpoint(session, self.pod_uid, part, text, order=order, now=at)
            )

        return await self._call(handle)

    async def heartbeat(self) -> None:
        async def handle(sessions: Sessions) -> None:
            session = await sessions.for_writing(self._identity)
            at: datetime = now()
            await self._ledger.call(lambda: self._ledger.heartbeat(session, self.pod_uid, at))

        await self._call(handle)

    async def report(self, report: Report) -> None:
        async def handle(sessions: Sessions) -> None:
            session = await sessions.for_writing(self._identity)
            await self._ledger.call(lambda: self._ledger.report(session, self.pod_uid, report))

        await self._call(handle)

    async def _call(self, handle: Callable[[Sessions], Coroutine[Any, Any, Result]]) -> Result:
        return await self._faults.choice(self._gateways).call(handle, self._identity)
