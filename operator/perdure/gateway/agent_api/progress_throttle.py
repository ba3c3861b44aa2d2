"""Throttle of progress events, so that an agent that reports in a tight loop does not fill the event log.

Every report is accepted, and the newest report always becomes an event; only the number of events is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from perdure.domain.records import LedgerUnavailable, Superseded
from perdure.gateway.agent_api.ports import AgentLedger
from perdure.gateway.agent_api.throttle import AttemptKey, Throttle, attempt_key
from perdure.ledger.types import AgentSession

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Window:
    """The interval after an event in which no other event may follow."""

    timer: asyncio.TimerHandle
    #: The newest report of the interval, merged with its predecessors: session, percent, message.
    held: tuple[AgentSession, float | None, str | None] | None = None


class ProgressThrottle(Throttle[_Window]):
    """Leading-edge throttle per attempt, as an async context manager: leaving it writes the held reports."""

    def __init__(
        self, ledger: AgentLedger, *, clock: Callable[[], datetime], interval: float, drain: float = 5.0
    ) -> None:
        super().__init__(
            ledger, clock=clock, interval=interval, drain=drain, lost="progress dropped while stopping"
        )

    async def submit(self, session: AgentSession, percent: float | None, message: str | None) -> None:
        """Accept a report, which becomes an event now, or at the end of the interval.

        A newer report replaces a held one. None stands for "unchanged". Raises Superseded, LedgerUnavailable.
        """
        key = attempt_key(session)
        window = self._entries.get(key)
        if window is None:
            # Opened before the write: reports that arrive during the write must be held.
            self._open(key)
            try:
                await self._ledger.progress(session, percent, message, self._clock())
            except BaseException:
                # A report that was held during the failed write is kept: the end of the window writes it.
                opened = self._entries.get(key)
                if opened is not None and opened.held is None:
                    self._drop(key)
                raise
            return
        if window.held is not None:
            _, held_percent, held_message = window.held
            percent = held_percent if percent is None else percent
            message = held_message if message is None else message
        window.held = (session, percent, message)
        # The heartbeat also fences: a superseded agent gets its 409 now, not at the end of the window.
        await self._ledger.heartbeat(session, self._clock())

    def _open(self, key: AttemptKey) -> None:
        self._entries[key] = _Window(self._timer(key))

    def _due(self, key: AttemptKey) -> None:
        self._group.create_task(self._flush(key))

    async def _flush(self, key: AttemptKey) -> None:
        """The end of a window: write the held report and open the next window, or close an empty one."""
        window = self._entries.pop(key, None)
        if window is None or window.held is None:
            return
        session, percent, message = window.held
        if not self._closing:
            self._open(key)
        try:
            await self._ledger.progress(session, percent, message, self._clock())
        except Superseded:
            self._drop(key)
        except LedgerUnavailable:
            # Retried at the end of the next window, unless a newer report is held by then.
            following = self._entries.get(key)
            if following is not None and following.held is None:
                following.held = window.held
        except Exception:
            # An error here would cancel the task group, and with it the progress of all other attempts.
            _log.exception("progress not written", task=session.task_name)
