"""Exchange of one request and its response, under the fault that the script assigns to the request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from perdure_agent.testing._api import respond, route_of
from perdure_agent.testing._client import ConnectionLost
from perdure_agent.testing._clock import Clock
from perdure_agent.testing._faults import (
    ExpiredToken,
    Fault,
    Kill,
    Killed,
    LostAnswer,
    Refusal,
    Script,
    Slow,
    Takeover,
    TooManyRequests,
    Unavailable,
    Unreachable,
)
from perdure_agent.testing._pod import Pod
from perdure_agent.testing._problems import Message, Problem, Response, problem_response
from perdure_agent.testing._records import RecordedRequest
from perdure_agent.testing._task import Task

Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class _Exchanged:
    """The fault of one request, and the status of its response once there is one."""

    fault: Fault | None
    status: int | None = None

    def by(self, response: Response) -> Response:
        self.status = response.status
        return response


class Exchanges:
    """All requests of a task's pods: record, fault, response."""

    def __init__(self, task: Task, *, clock: Clock) -> None:
        self._task = task
        self._clock = clock
        self.script = Script()
        #: Number of open contexts in which no request gets through.
        self.away = 0
        #: All requests, in the order of their arrival.
        self.requests: list[RecordedRequest] = []
        #: Set at the next request, and then replaced.
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Return after the next request."""
        await self._changed.wait()

    async def exchange(self, message: Message, pod: Pod, *, sleep: Sleep) -> Response:
        """One request under its scripted fault. Raises ConnectionLost, Killed."""
        with self._recorded(message) as exchanged:
            if isinstance(exchanged.fault, Slow):
                await sleep(exchanged.fault.seconds)
            return exchanged.by(self._under(exchanged.fault, message, pod))

    def exchange_now(self, message: Message, pod: Pod, *, timeout: float) -> Response:
        """The same for a request whose sender does not leave the event loop a turn. Raises as `exchange`."""
        with self._recorded(message) as exchanged:
            if isinstance(exchanged.fault, Slow) and exchanged.fault.seconds >= timeout:
                raise ConnectionLost("scripted: slower than the client waits")
            return exchanged.by(self._under(exchanged.fault, message, pod))

    @contextmanager
    def _recorded(self, message: Message) -> Iterator[_Exchanged]:
        try:
            sender = self._task.attempt_of(message.headers).number
        except Problem:
            sender = None
        position = len(self.requests)
        record = RecordedRequest(
            method=message.method,
            path=message.path,
            route=route_of(message.method, message.path),
            attempt=sender,
            status=None,
            at=self._clock.now,
        )
        self.requests.append(record)
        exchanged = _Exchanged(Unreachable() if self.away else self.script.take(record))
        try:
            yield exchanged
        finally:
            self.requests[position] = replace(record, status=exchanged.status)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _under(self, fault: Fault | None, message: Message, pod: Pod) -> Response:
        match fault:
            case None | Slow():
                pass
            case Unreachable():
                raise ConnectionLost("scripted: unreachable")
            case Unavailable(retry_after):
                return _retry(Problem("ledger-unavailable", "scripted").response(), retry_after)
            case TooManyRequests(retry_after):
                return _retry(_refused(Refusal("busy", 429)), retry_after)
            case LostAnswer():
                self._respond(message)
                raise ConnectionLost("scripted: the answer is lost")
            case Takeover():
                pod.attempt.open = False
            case ExpiredToken(renewed):
                pod.expire_token()
                if renewed:
                    pod.renew_token()
            case Refusal():
                return _refused(fault)
            case Kill(committed):
                if committed:
                    self._respond(message)
                pod.killed = True
                raise Killed("scripted: the pod was killed")
        return self._respond(message)

    def _respond(self, message: Message) -> Response:
        return respond(self._task, message, now=self._clock.now)


def _retry(response: Response, seconds: int | None) -> Response:
    headers = {name: value for name, value in response.headers.items() if name != "Retry-After"}
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    return replace(response, headers=headers)


def _refused(refusal: Refusal) -> Response:
    detail = refusal.detail or f"scripted: {refusal.kind}"
    return problem_response(refusal.kind, refusal.status, refusal.kind, detail)
