"""Throttle of checkpoint events, so that an agent that saves in a tight loop does not fill the event log.

Every checkpoint is stored, numbered and listed; only the number of events is bounded, by a token bucket for
each attempt. As long as the bucket has tokens, a checkpoint has its event in its own transaction. When the
bucket is empty, the newest of the checkpoints without an event has one as soon as there is a token again, and
stands for the others.
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
class _Bucket:
    """The tokens that an attempt has spent; one comes back after each interval."""

    timer: asyncio.TimerHandle
    spent: int = 0
    #: Set once a checkpoint was stored without an event.
    owes: AgentSession | None = None


class CheckpointThrottle(Throttle[_Bucket]):
    """Token bucket per attempt, as an async context manager: leaving it writes the events that are owed."""

    def __init__(
        self, ledger: AgentLedger, *, clock: Callable[[], datetime], interval: float, burst: int
    ) -> None:
        """`burst` events at once, then one after each `interval`, in seconds."""
        super().__init__(ledger, clock=clock, interval=interval, lost="checkpoint events dropped")
        self._burst = burst

    def announces(self, session: AgentSession) -> bool:
        """True if the checkpoint that is about to be stored has an event, which spends a token."""
        bucket = self._bucket(attempt_key(session))
        # An event that is owed comes first: later ones would overtake it.
        if bucket.owes is not None or bucket.spent == self._burst:
            return False
        bucket.spent += 1
        return True

    def owe(self, session: AgentSession) -> None:
        """Note that a checkpoint was stored without an event."""
        self._bucket(attempt_key(session)).owes = session

    def _bucket(self, key: AttemptKey) -> _Bucket:
        bucket = self._entries.get(key)
        if bucket is None:
            bucket = self._entries[key] = _Bucket(self._timer(key))
        return bucket

    def _due(self, key: AttemptKey) -> None:
        """A token comes back, and writes the event that is owed."""
        bucket = self._entries.get(key)
        if bucket is None:
            return
        bucket.spent = max(0, bucket.spent - 1)
        if bucket.owes is not None:
            bucket.spent += 1
            self._group.create_task(self._flush(key))
        elif not bucket.spent:
            del self._entries[key]
            return
        bucket.timer = self._timer(key)

    async def _flush(self, key: AttemptKey) -> None:
        """Write the event that is owed; if the ledger is away, the next token tries again."""
        bucket = self._entries.get(key)
        if bucket is None or bucket.owes is None:
            return
        session, bucket.owes = bucket.owes, None
        try:
            await self._ledger.announce_checkpoint(session, self._clock())
        except Superseded:
            # The attempt has ended: the event of its end follows its checkpoints.
            self._drop(key)
        except LedgerUnavailable:
            bucket.owes = bucket.owes or session
        except Exception:
            # An error here would cancel the task group, and with it the events of all other attempts.
            _log.exception("checkpoint event not written", task=session.task_name)
