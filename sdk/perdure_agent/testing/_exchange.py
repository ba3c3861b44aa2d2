"""Exchange of one request and its response, under the fault that the script assigns to the request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

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
        #: Notified after each request.
        self.changed = asyncio.Condition()

    async def exchange(self, message: Message, pod: Pod, *, sleep: Sleep) -> Response:
        """One request under its scripted fault. Raises ConnectionLost, Killed."""
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
        try:
            fault = Unreachable() if self.away else self.script.take(record)
            response = await self._under(fault, message, pod, sleep=sleep)
            self.requests[position] = replace(record, status=response.status)
            return response
        finally:
            async with self.changed:
                self.changed.notify_all()

    async def _under(self, fault: Fault | None, message: Message, pod: Pod, *, sleep: Sleep) -> Response:
        match fault:
            case None:
                pass
            case Unreachable():
                raise ConnectionLost("scripted: unreachable")
            case Unavailable(retry_after):
                return _retry(Problem("ledger-unavailable", "scripted").response(), retry_after)
            case TooManyRequests(retry_after):
                return _retry(_refused(Refusal("busy", 429)), retry_after)
            case Slow(seconds):
                await sleep(seconds)
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
