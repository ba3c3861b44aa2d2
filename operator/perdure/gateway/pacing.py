"""Keeps an agent that reports progress in a tight loop from filling its run's event log.

Every report is accepted and the newest one always arrives; only the number of events is bounded.
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
from perdure.gateway.ports import AgentLedger
from perdure.ledger.types import AgentSession

_log = structlog.get_logger(__name__)
_Key = tuple[str, TaskKey, int]


@dataclass(slots=True)
class _Window:
    """The time after an event in which no other may follow."""

    timer: asyncio.TimerHandle
    #: What came since: session, percent, message.
    held: tuple[AgentSession, float | None, str | None] | None = None


class ProgressPacer:
    """Async context manager: leaving it writes what is still held back."""

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

    async def note(self, session: AgentSession, percent: float | None, message: str | None) -> None:
        """Take a report. It becomes an event now, or within the interval unless a newer one replaces it.

        None stands for "as before". Raises Superseded, LedgerUnavailable.
        """
        key = (session.workflow_uid, session.key, session.attempt)
        window = self._windows.get(key)
        if window is None:
            # Opened before the write, so that reports which arrive during it are held.
            self._open(key)
            try:
                await self._ledger.progress(session, percent, message, self._clock())
            except BaseException:
                # What others left during the write is not lost with it: the window's end will write it.
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
        # A sign of life, and the fence: an agent that was superseded is told so now.
        await self._ledger.heartbeat(session, self._clock())

    def _open(self, key: _Key) -> None:
        timer = asyncio.get_running_loop().call_later(self._interval, self._due, key)
        self._windows[key] = _Window(timer)

    def _close(self, key: _Key) -> None:
        window = self._windows.pop(key, None)
        if window is not None:
            window.timer.cancel()

    def _due(self, key: _Key) -> None:
        # When closing, every window is being flushed already.
        if not self._closing:
            self._group.create_task(self._flush(key))

    async def _flush(self, key: _Key) -> None:
        """The window's end: write what it held and open the next one, or forget it if it held nothing."""
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
            # Tried again at the end of the next window, unless something newer is held by then.
            following = self._windows.get(key)
            if following is not None and following.held is None:
                following.held = window.held
        except Exception:
            # One attempt's trouble must not stop the others' progress.
            _log.exception("progress not written", task=session.task_name)
