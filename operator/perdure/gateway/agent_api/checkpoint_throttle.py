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
from types import TracebackType
from typing import Self

import structlog

from perdure.domain.records import LedgerUnavailable, Superseded, TaskKey
from perdure.gateway.agent_api.ports import AgentLedger
from perdure.ledger.types import AgentSession

_log = structlog.get_logger(__name__)
_Key = tuple[str, TaskKey, int]


@dataclass(slots=True)
class _Bucket:
    """The tokens that an attempt has spent; one comes back after each interval."""

    timer: asyncio.TimerHandle
    spent: int = 0
    #: Set once a checkpoint was stored without an event.
    owes: AgentSession | None = None


class CheckpointThrottle:
    """Throttle per attempt, as an async context manager: leaving it writes the events that are owed."""

    def __init__(
        self,
        ledger: AgentLedger,
        *,
        clock: Callable[[], datetime],
        interval: float,
        burst: int,
        drain: float = 5.0,
    ) -> None:
        """`burst` events at once, then one after each `interval`, in seconds."""
        self._ledger = ledger
        self._clock = clock
        self._interval = interval
        self._burst = burst
        self._drain = drain
        self._buckets: dict[_Key, _Bucket] = {}
        self._group = asyncio.TaskGroup()
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for key, bucket in list(self._buckets.items()):
            bucket.timer.cancel()
            self._group.create_task(self._flush(key))
        try:
            async with asyncio.timeout(self._drain):
                await self._group.__aexit__(kind, error, trace)
        except TimeoutError:
            _log.warning("checkpoint events dropped", reason="the ledger did not answer in time")

    def announces(self, session: AgentSession) -> bool:
        """True if the checkpoint that is about to be stored has an event, which spends a token."""
        bucket = self._bucket(_key(session))
        # An event that is owed comes first: later ones would overtake it.
        if bucket.owes is not None or bucket.spent == self._burst:
            return False
        bucket.spent += 1
        return True

    def owe(self, session: AgentSession) -> None:
        """Note that a checkpoint was stored without an event."""
        self._bucket(_key(session)).owes = session

    def _bucket(self, key: _Key) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._timer(key))
        return bucket

    def _timer(self, key: _Key) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._interval, self._refill, key)

    def _refill(self, key: _Key) -> None:
        """A token comes back, and writes the event that is owed."""
        bucket = self._buckets.get(key)
        if bucket is None or self._closing:
            return
        bucket.spent = max(0, bucket.spent - 1)
        if bucket.owes is not None:
            bucket.spent += 1
            self._group.create_task(self._flush(key))
        elif not bucket.spent:
            del self._buckets[key]
            return
        bucket.timer = self._timer(key)

    async def _flush(self, key: _Key) -> None:
        """Write the event that is owed; if the ledger is away, the next token tries again."""
        bucket = self._buckets.get(key)
        if bucket is None or bucket.owes is None:
            return
        session, bucket.owes = bucket.owes, None
        try:
            await self._ledger.announce_checkpoint(session, self._clock())
        except Superseded:
            # The attempt has ended: the event of its end follows its checkpoints.
            bucket.timer.cancel()
            self._buckets.pop(key, None)
        except LedgerUnavailable:
            bucket.owes = bucket.owes or session
        except Exception:
            # An error here would cancel the task group, and with it the events of all other attempts.
            _log.exception("checkpoint event not written", task=session.task_name)


def _key(session: AgentSession) -> _Key:
    return session.workflow_uid, session.key, session.attempt
