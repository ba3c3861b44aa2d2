"""One run's events for a follower: past ones from the ledger, new ones live, each once and in order.

The ledger is the truth. NATS only delivers new events sooner; without NATS the ledger is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol

from perdure.bus.connection import Bus
from perdure.bus.errors import BusUnavailable
from perdure.bus.subscription import Hints, subscribe
from perdure.domain.events import TASK_ENDED, WORKFLOW_ENDED
from perdure.domain.records import Event, LedgerUnavailable, RunKind, RunRecord

#: Events read from the ledger at once.
PAGE = 500
#: Seconds between polls of the ledger without NATS.
POLL = 1.0
#: Seconds between polls of the ledger with NATS, in case a message got lost.
SAFETY_POLL = 5.0

#: A standalone AgentTask has one task, whose end is the run's.
_ENDS: dict[RunKind, frozenset[str]] = {
    "Workflow": frozenset(WORKFLOW_ENDED.values()),
    "AgentTask": frozenset(TASK_ENDED[phase] for phase in WORKFLOW_ENDED),
}


class Runs(Protocol):
    """The part of the ledger that following reads. May raise LedgerUnavailable."""

    async def events(self, uid: str, *, after: int = 0, limit: int = 1000) -> list[Event]: ...

    async def find_run(
        self, namespace: str, name: str, *, kind: RunKind | None = None
    ) -> RunRecord | None: ...


def is_last(event: Event) -> bool:
    """True for the event that ends its run: of a Workflow, or of a standalone AgentTask."""
    return event.type in _ENDS[event.kind]


async def history(ledger: Runs, uid: str, *, after: int) -> AsyncGenerator[Event, None]:
    """The committed events of a run with numbers above `after`, in order. May raise LedgerUnavailable."""
    while page := await ledger.events(uid, after=after, limit=PAGE):
        for event in page:
            yield event
        after = page[-1].sequence
        if len(page) < PAGE:
            return


async def follow(
    ledger: Runs, run: RunRecord, *, after: int, bus: Bus | None, notice: Callable[[str], None]
) -> AsyncGenerator[Event, None]:
    """The events of a run with numbers above `after`: each once, in order, without gap, until the last one.

    `notice` gets a sentence for people when NATS or the ledger becomes unavailable or available again. The
    iteration ends without a last event only if the run is deleted, or has ended and `after` is beyond its
    end. Raises LedgerUnavailable only if the first read fails.
    """
    async with contextlib.AsyncExitStack() as stack:
        follower = _Follower(ledger, run, after, bus, notice, stack)
        async for event in follower.events():
            yield event


class _Follower:
    def __init__(
        self,
        ledger: Runs,
        run: RunRecord,
        after: int,
        bus: Bus | None,
        notice: Callable[[str], None],
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._after = after
        self._bus = bus
        self._notice = notice
        self._stack = stack
        self._hints: Hints | None = None
        #: Generation of the connection under which the ledger was last read; 0 for none.
        self._generation = 0
        self._live: bool | None = None
        self._ledger_away = False

    async def events(self) -> AsyncIterator[Event]:
        has_read = False
        while True:
            # Subscribed before the ledger is read: an event published after the read is received.
            await self._subscribe()
            try:
                async for event in history(self._ledger, self._run.uid, after=self._after):
                    self._after = event.sequence
                    yield event
                    if is_last(event):
                        return
                # The last event may lie before `after`, or have been deleted with its run.
                if await self._is_over():
                    return
                has_read = True
                if self._ledger_away:
                    self._ledger_away = False
                    self._notice("the ledger is back")
            except LedgerUnavailable as error:
                if not has_read:
                    raise
                if not self._ledger_away:
                    self._ledger_away = True
                    self._notice(f"the ledger is away ({error}); waiting for it")
                await asyncio.sleep(POLL)
                continue
            # Live, as long as each hint is the next event.
            while (hint := await self._next_hint()) is not None:
                if hint.workflow_uid != self._run.uid or hint.sequence <= self._after:
                    continue
                if hint.sequence > self._after + 1:
                    break
                self._after = hint.sequence
                yield hint
                if is_last(hint):
                    return

    async def _is_over(self) -> bool:
        run = await self._ledger.find_run(self._run.namespace, self._run.name, kind=self._run.kind)
        if run is None:
            return True
        # A newer run of the same name has taken the place of this one, which was deleted.
        return run.uid != self._run.uid or (run.phase.terminal and run.last_sequence <= self._after)

    async def _subscribe(self) -> None:
        if self._bus is not None:
            with contextlib.suppress(BusUnavailable):
                if not self._bus.connected:
                    await self._bus.connect(timeout=POLL)
                if self._hints is None:
                    self._hints = await self._stack.enter_async_context(
                        subscribe(self._bus, self._run.namespace, self._run.name)
                    )
        live = self._hints is not None and self._bus is not None and self._bus.connected
        self._generation = self._bus.generation if self._bus is not None and live else 0
        if live != self._live:
            if not live:
                self._notice(f"NATS is away; polling the ledger every {POLL:g} s")
            elif self._live is not None:
                self._notice("NATS is back; following live")
            self._live = live

    async def _next_hint(self) -> Event | None:
        """The next live event; None when the ledger is to be polled."""
        bus, hints = self._bus, self._hints
        if bus is None or hints is None or not self._live:
            await asyncio.sleep(POLL)
            return None
        waited = 0.0
        # In small pieces: what was published during a reconnect was not received.
        while waited < SAFETY_POLL and bus.connected and bus.generation == self._generation:
            hint = await hints.next(timeout=POLL)
            if hint is not None or hints.dropped:
                return hint
            waited += POLL
        return None
