"""Throttle of checkpoint events, so that an agent that saves in a tight loop does not fill the event log.

Every checkpoint is stored, numbered and listed; only the number of events is bounded. The first checkpoint of
a window has its event in its own transaction. Of those that follow within the window, the newest has one when
the window ends, and stands for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

import structlog

from perdure.domain.records import LedgerUnavailable, Superseded, TaskKey
from perdure.gateway.agent_api.ports import AgentLedger
from perdure.ledger.types import AgentSession

_log = structlog.get_logger(__name__)
_Key = tuple[str, TaskKey, int]


@dataclass(slots=True)
class _Window:
    """The interval after an event in which no other event may follow."""

    timer: asyncio.TimerHandle
    #: Set once a checkpoint was stored without an event.
    owes: AgentSession | None = None


class CheckpointThrottle:
    """Throttle per attempt, as an async context manager: leaving it writes the events that are owed."""

    def __init__(
        self, ledger: AgentLedger, *, clock: Callable[[], datetime], interval: float, drain: float = 5.0
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._interval = interval
        self._drain = drain
        self._windows: dict[_Key, _Window] = {}
        self._group = asyncio.TaskGroup()
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for key, window in list(self._windows.items()):
            window.timer.cancel()
            self._group.create_task(self._flush(key))
        try:
            async with asyncio.timeout(self._drain):
                await self._group.__aexit__(kind, error, trace)
        except TimeoutError:
            _log.warning("checkpoint events dropped", reason="the ledger did not answer in time")

    def announces(self, session: AgentSession) -> bool:
        """True if the checkpoint that is about to be stored has an event; opens a window then."""
        key = _key(session)
        if key in self._windows:
            return False
        self._open(key)
        return True

    def owe(self, session: AgentSession) -> None:
        """Note that a checkpoint was stored without an event."""
        key = _key(session)
        if key not in self._windows:
            # The window ended while the checkpoint was being stored.
            self._open(key)
        self._windows[key].owes = session

    def _open(self, key: _Key) -> None:
        timer = asyncio.get_running_loop().call_later(self._interval, self._due, key)
        self._windows[key] = _Window(timer)

    def _due(self, key: _Key) -> None:
        if self._closing:
            return
        if self._windows[key].owes is None:
            del self._windows[key]
        else:
            self._group.create_task(self._flush(key))

    async def _flush(self, key: _Key) -> None:
        """The end of a window: write the event that is owed, and open the next window."""
        window = self._windows.pop(key, None)
        if window is None or window.owes is None:
            return
        if not self._closing:
            self._open(key)
        try:
            await self._ledger.announce_checkpoint(window.owes, self._clock())
        except Superseded:
            # The attempt has ended: the event of its end follows its checkpoints.
            following = self._windows.pop(key, None)
            if following is not None:
                following.timer.cancel()
        except LedgerUnavailable:
            following = self._windows.get(key)
            if following is not None:
                following.owes = window.owes
        except Exception:
            # An error here would cancel the task group, and with it the events of all other attempts.
            _log.exception("checkpoint event not written", task=window.owes.task_name)


def _key(session: AgentSession) -> _Key:
    return session.workflow_uid, session.key, session.attempt
