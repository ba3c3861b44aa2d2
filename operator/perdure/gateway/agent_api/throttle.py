"""The life of a throttle of events: an entry with a timer for each attempt, and last writes at the stop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import structlog

from perdure.domain.records import TaskKey
from perdure.gateway.agent_api.ports import AgentLedger
from perdure.ledger.types import AgentSession

#: Run, task and number of an attempt.
AttemptKey = tuple[str, TaskKey, int]

_log = structlog.get_logger(__name__)


class Timed(Protocol):
    """The state of one attempt."""

    timer: asyncio.TimerHandle


T = TypeVar("T", bound=Timed)


class Throttle(ABC, Generic[T]):
    """Owner of the timers and writes of all attempts, as an async context manager: the end writes all."""

    def __init__(
        self,
        ledger: AgentLedger,
        *,
        clock: Callable[[], datetime],
        interval: float,
        drain: float = 5.0,
        lost: str,
    ) -> None:
        """`interval` and `drain` in seconds: between events of one attempt, and for the writes at the stop.

        `lost` is what the log says if the writes at the stop take longer.
        """
        self._ledger = ledger
        self._clock = clock
        self._interval = interval
        self._drain = drain
        self._lost = lost
        self._entries: dict[AttemptKey, T] = {}
        self._group = asyncio.TaskGroup()
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for key, entry in list(self._entries.items()):
            entry.timer.cancel()
            self._group.create_task(self._flush(key))
        try:
            async with asyncio.timeout(self._drain):
                await self._group.__aexit__(kind, error, trace)
        except TimeoutError:
            _log.warning(self._lost, reason="the ledger did not answer in time")

    def _timer(self, key: AttemptKey) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._interval, self._ring, key)

    def _ring(self, key: AttemptKey) -> None:
        # `__aexit__` has started the flush of every entry already.
        if not self._closing:
            self._due(key)

    def _drop(self, key: AttemptKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.timer.cancel()

    @abstractmethod
    def _due(self, key: AttemptKey) -> None:
        """The end of an attempt's interval."""

    @abstractmethod
    async def _flush(self, key: AttemptKey) -> None:
        """Write what is held for an attempt. Raises nothing: an error would cancel the writes of others."""


def attempt_key(session: AgentSession) -> AttemptKey:
    """The key of a session's attempt."""
    return session.workflow_uid, session.key, session.attempt
