"""Throttle of progress events, so that an agent that reports in a tight loop does not fill the event log.

Every report is accepted, and the newest report always becomes an event; only the number of events is bounded.
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
    #: The newest report of the interval, merged with its predecessors: session, percent, message.
    held: tuple[AgentSession, float | None, str | None] | None = None


class ProgressThrottle:
    """Leading-edge throttle per attempt, as an async context manager: leaving it writes the held reports."""

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
            _log.warning("progress dropped while stopping", reason="the ledger did not answer in time")

    async def submit(self, session: AgentSession, percent: float | None, message: str | None) -> None:
        """Accept a report, which becomes an event now, or at the end of the interval.

        A newer report replaces a held one. None stands for "unchanged". Raises Superseded, LedgerUnavailable.
        """
        key = (session.workflow_uid, session.key, session.attempt)
        window = self._windows.get(key)
        if window is None:
            # Opened before the write: reports that arrive during the write must be held.
            self._open(key)
            try:
                await self._ledger.progress(session, percent, message, self._clock())
            except BaseException:
                # A report that was held during the failed write is kept: the end of the window writes it.
                opened = self._windows.get(key)
                if opened is not None and opened.held is None:
                    self._close(key)
                raise
            return
        if window.held is not None:
            _, held_percent, held_message = window.held
            percent = held_percent if percent is None else percent
            message = held_message if message is None else message
        window.held = (session, percent, message)
        # The heartbeat also fences: a superseded agent gets its 409 now, not at the end of the window.
        await self._ledger.heartbeat(session, self._clock())

    def _open(self, key: _Key) -> None:
        timer = asyncio.get_running_loop().call_later(self._interval, self._due, key)
        self._windows[key] = _Window(timer)

    def _close(self, key: _Key) -> None:
        window = self._windows.pop(key, None)
        if window is not None:
            window.timer.cancel()

    def _due(self, key: _Key) -> None:
        # `__aexit__` has started the flush of every window already.
        if not self._closing:
            self._group.create_task(self._flush(key))

    async def _flush(self, key: _Key) -> None:
        """The end of a window: write the held report and open the next window, or close an empty one."""
        window = self._windows.pop(key, None)
        if window is None or window.held is None:
            return
        session, percent, message = window.held
        if not self._closing:
            self._open(key)
        try:
            await self._ledger.progress(session, percent, message, self._clock())
        except Superseded:
            self._close(key)
        except LedgerUnavailable:
            # Retried at the end of the next window, unless a newer report is held by then.
            following = self._windows.get(key)
            if following is not None and following.held is None:
                following.held = window.held
        except Exception:
            # An error here would cancel the task group, and with it the progress of all other attempts.
            _log.exception("progress not written", task=session.task_name)
