"""Heartbeats of the SDK's thread in virtual time: sent while the agent's code computes (`Clock.compute`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from perdure_agent._backstop import Backstop, BackstopOrder, Beats
from perdure_agent._http import CONNECT_TIMEOUT, Answer, NoAnswer
from perdure_agent._token import TokenFile
from perdure_agent.testing._client import ConnectionLost
from perdure_agent.testing._clock import Clock
from perdure_agent.testing._pod import Pod
from perdure_agent.testing._problems import Message, Response


class Exchange(Protocol):
    def __call__(self, message: Message, pod: Pod, *, timeout: float) -> Response: ...


class Backstops:
    """Opens the backstop of each agent of one pod."""

    def __init__(self, pod: Pod, *, exchange: Exchange, clock: Clock) -> None:
        self._pod = pod
        self._exchange = exchange
        self._clock = clock

    @asynccontextmanager
    async def opened(self, order: BackstopOrder) -> AsyncIterator[Backstop]:
        """A backstop for as long as the context is open."""
        backstop = _VirtualBackstop(self._pod, order, exchange=self._exchange, clock=self._clock)
        self._clock.backstops.append(backstop)
        try:
            yield backstop
        finally:
            backstop.end()


class _VirtualBackstop:
    def __init__(self, pod: Pod, order: BackstopOrder, *, exchange: Exchange, clock: Clock) -> None:
        self._pod = pod
        self._order = order
        self._exchange = exchange
        self._clock = clock
        self._token = TokenFile(order.environment.token_file)
        self._beats = Beats(order, now=clock.now)

    def due(self) -> float:
        return self._beats.due()

    def postpone(self) -> None:
        self._beats.postpone(now=self._clock.now)

    def fire(self) -> None:
        """Send one heartbeat. Raises Killed."""
        superseded = self._beats.beat(self._send, now=self._clock.now)
        if superseded is not None:
            self.end()
            asyncio.get_running_loop().call_soon(self._order.on_superseded, superseded)

    def end(self) -> None:
        if self in self._clock.backstops:
            self._clock.backstops.remove(self)

    def _send(self) -> Answer:
        headers = {name.lower(): value for name, value in self._token.authorization().items()}
        message = Message(method="POST", path="/heartbeat", query="", headers=headers, body=b"")
        try:
            response = self._exchange(message, self._pod, timeout=CONNECT_TIMEOUT)
        except ConnectionLost as error:
            raise NoAnswer(f"the gateway cannot be reached ({error})") from None
        return Answer(response.status, response.headers, response.body)
