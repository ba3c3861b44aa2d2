"""The relay: publishes the events of the outbox to JetStream, however often ledger or NATS are unavailable.

The relay runs on the leader. Two relays at once do no harm: both publish under the same ids, and the stream
stores each id once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from perdure.aio import wait_for_event
from perdure.bus import stream
from perdure.bus.connection import Bus
from perdure.bus.errors import BusError, BusUnavailable
from perdure.bus.namespace_rates import NamespaceRates
from perdure.bus.publisher import BATCH, Lane, lanes_by_run, publish_lanes
from perdure.bus.refill import History, Refill, read_present
from perdure.bus.stream import StreamLimits, StreamState
from perdure.domain.records import LedgerUnavailable, OutboxRow

_log = structlog.get_logger(__name__)

#: Seconds between polls of the outbox when nothing wakes the relay. Commits of this process and notifications
#: of gateways wake it, and a listener that connects again does; the poll is for a wake-up that is lost.
POLL = 5.0
#: Seconds from the start of one poll to the start of the next: for each event that the poll found, and at
#: most. Events of many commits are so published in batches, and a single event is published at once.
ROUND = 0.004
LONGEST_ROUND = 0.012
#: Seconds for which deletions from the outbox are batched, so that a stream of single events does not cost
#: the ledger a second transaction for each. After a crash so many events are published again, under the same
#: ids.
FORGET_EVERY = 0.1
#: Seconds between checks of a stream that gives no cause for one.
CHECK_INTERVAL = 30.0
#: Events of one namespace in a batch, while more than a batch is waiting.
SHARE = BATCH // 2
#: Seconds for one attempt to reach NATS, after which `stop` is checked again.
_PATIENCE = 5.0
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0


class Outbox(History, Protocol):
    """The part of the ledger that the relay needs. May raise LedgerUnavailable."""

    async def outbox_batch(self, limit: int, *, skip: Sequence[int] = ()) -> Sequence[OutboxRow]: ...

    async def outbox_turns(
        self, limit: int, *, share: int, skip: Sequence[int] = (), held: Sequence[str] = ()
    ) -> Sequence[OutboxRow]: ...

    async def outbox_done(self, ids: Sequence[int]) -> None: ...


class Relay:
    """Publishes the outbox in order, and refills a lost stream. `run` it while leading.

    While more than a batch is waiting, namespaces take turns: no event waits for more than a batch of events
    of another namespace.
    """

    def __init__(
        self,
        ledger: Outbox,
        bus: Bus,
        *,
        limits: StreamLimits | None = None,
        rates: NamespaceRates | None = None,
    ) -> None:
        self._ledger = ledger
        self._bus = bus
        self._limits = limits or StreamLimits()
        self._rates = rates or NamespaceRates(clock=time.monotonic)
        #: True while the outbox may hold more that can be published at once.
        self._backlog = False
        #: True while namespaces take turns.
        self._turns = False
        self._stop = asyncio.Event()
        self._state: StreamState | None = None
        self._generation = 0
        self._checked_at = 0.0
        self._refill: Refill | None = None
        #: Highest stream sequence that was acknowledged: a stream that ends before it has lost messages.
        self._highest = 0
        self._lost_messages = False
        #: When the known stream was created.
        self._created: str | None = None
        #: Creation time of the stream that this relay refilled: for servers that keep no mark.
        self._filled: str | None = None
        #: Rows that were published and are still in the outbox. The stream remembers ids for some minutes
        #: only; a longer outage of the ledger must not publish these rows again.
        self._unforgotten: set[int] = set()
        #: When they are to be deleted, by the monotonic clock.
        self._forget_at = 0.0
        #: The failure that the relay waits out, in words; None while events are published.
        self.waiting_for: str | None = None
        #: Events published since the start, refilled ones included.
        self.published = 0

    async def run(self, *, stop: asyncio.Event, wake: asyncio.Event) -> None:
        """Relay until `stop` is set; set `wake` after committing events. Returns within one publish timeout.

        Raises nothing but CancelledError: outages are waited out. Cancelling is safe at any moment; events
        whose acknowledgement was not recorded are published again under their ids.
        """
        self._stop = stop
        self._state = None
        delay = _FIRST_DELAY
        while not stop.is_set():
            # Cleared before the outbox is read: an event committed after the read sets it again.
            wake.clear()
            began = time.monotonic()
            try:
                found = await self._once()
            except (BusError, LedgerUnavailable) as error:
                self._note_failure(error)
            except Exception:
                # A defect in the handling of one event must not stop all events for good.
                _log.exception("relay_failed")
            else:
                if self.waiting_for is not None:
                    self.waiting_for = None
                    _log.info("relay_recovered")
                delay = _FIRST_DELAY
                if found < BATCH:
                    # `stop` is checked after the pause: to wait for both events costs a task for each.
                    await wait_for_event(wake, self._pause())
                    least = min(LONGEST_ROUND, ROUND * max(1, found))
                    await asyncio.sleep(began + least - time.monotonic())
                continue
            self._state = None
            await wait_for_event(stop, delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _LONGEST_DELAY)
        with suppress(LedgerUnavailable):
            await self._forget()

    def _pause(self) -> float:
        """Seconds until the next poll or deletion is due, if nothing wakes the relay."""
        pause = min(POLL, self._rates.due())
        return min(pause, max(0.0, self._forget_at - time.monotonic())) if self._unforgotten else pause

    def _note_failure(self, error: Exception) -> None:
        # An outage repeats its error; the first is enough for the log.
        if self.waiting_for != str(error):
            self.waiting_for = str(error)
            _log.warning("relay_waits", error=str(error))

    async def _once(self) -> int:
        """Publish the oldest events, up to `BATCH`. Returns how many there were."""
        await self._connect()
        if self._stop.is_set():
            return 0
        state = await self._check()
        rows = await self._read()
        if rows:
            await self._publish(rows, state)
        # A refill publishes up to the events that have left the outbox, so the outbox must be up to date.
        late = self._refill is not None or time.monotonic() >= self._forget_at
        if late or len(self._unforgotten) >= BATCH:
            await self._forget()
        if self._refill is None:
            return BATCH if self._backlog else len(rows)
        finished, failure = await self._refill.step(stopping=self._stop.is_set)
        if failure is not None:
            raise failure
        if finished:
            await stream.mark(self._bus, state, filled=True)
            _log.info("stream_refilled", events=self._refill.published)
            self.published += self._refill.published
            self._refill = None
            self._filled = state.created
            # Check again: the stream may have been replaced between the last check and the mark.
            self._state = None
        return BATCH

    async def _read(self) -> Sequence[OutboxRow]:
        """The events that are published next."""
        skip, held = list(self._unforgotten), self._rates.held()
        if self._turns or held:
            rows = await self._ledger.outbox_turns(BATCH, share=SHARE, skip=skip, held=held)
            most = max(Counter(row.event.namespace for row in rows).values(), default=0)
            self._backlog = len(rows) == BATCH or most == SHARE
        else:
            # The usual case, and the cheapest statement.
            rows = await self._ledger.outbox_batch(BATCH, skip=skip)
            self._backlog = len(rows) == BATCH
        allowed = self._rates.allowed(rows)
        # Events that were held must not come first when their namespace goes on.
        self._turns = self._backlog or bool(held) or len(allowed) < len(rows)
        return allowed

    async def _connect(self) -> None:
        if self._bus.connected:
            return
        connecting = asyncio.ensure_future(self._bus.connect(timeout=_PATIENCE))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                await connecting
        finally:
            connecting.cancel()
            stopping.cancel()
            await asyncio.wait((connecting, stopping))

    async def _check(self) -> StreamState:
        """The state of the stream, created if missing. Begins a refill if the stream lacks events."""
        generation, now = self._bus.generation, time.monotonic()
        known = self._state if generation == self._generation else None
        if known is not None and now - self._checked_at < CHECK_INTERVAL:
            return known
        state = await stream.ensure(self._bus, self._limits)
        replaced = self._created not in (None, state.created)
        # JetStream acknowledges before its disk has the message: a power failure takes the stream's end.
        lost = replaced or self._lost_messages or state.last_sequence < self._highest
        if lost:
            self._lost_messages = True
            # These rows may be among the lost messages.
            self._unforgotten.clear()
            self._refill, self._filled, self._highest = None, None, 0
            if state.filled and not replaced:
                # The mark is removed first: if this process dies now, the next leader refills.
                await stream.mark(self._bus, state, filled=False)
                state = await stream.ensure(self._bus, self._limits)
        if state.filled or state.created == self._filled:
            self._refill = None
        elif self._refill is None or known is None:
            # A refill goes on only if all that it published is certainly still in the stream.
            present = await read_present(self._bus, state)
            self._refill = Refill(self._ledger, self._bus, present, atomic=state.atomic)
            _log.warning("stream_incomplete", messages=state.messages, runs=len(present))
        # Only now: after a failure above, the loss must be noticed again.
        self._created, self._lost_messages = state.created, False
        self._highest = max(self._highest, state.last_sequence)
        self._state, self._generation, self._checked_at = state, generation, now
        return state

    async def _publish(self, rows: Sequence[OutboxRow], state: StreamState) -> None:
        ids = {row.event.id: row.id for row in rows}
        by_run = lanes_by_run([row.event for row in rows])
        if self._refill is not None:
            heads = {uid: events[0].sequence for uid, events in by_run.items()}
            failure = await self._refill.before(heads, stopping=self._stop.is_set)
            if failure is not None:
                raise failure
            if self._stop.is_set():
                return
        lanes = [Lane(events) for events in by_run.values()]
        failure = await publish_lanes(self._bus, lanes, atomic=state.atomic, stopping=self._stop.is_set)
        self._note_places(lanes)
        done = [ids[event.id] for lane in lanes for event in lane.events[: lane.done]]
        self.published += len(done)
        self._rates.spend(event.namespace for lane in lanes for event in lane.events[: lane.done])
        if not self._unforgotten:
            self._forget_at = time.monotonic() + FORGET_EVERY
        self._unforgotten.update(done)
        if failure is not None:
            raise failure
        if self._lost_messages:
            raise BusUnavailable("the stream lost messages that it had acknowledged")

    async def _forget(self) -> None:
        if self._unforgotten:
            await self._ledger.outbox_done(list(self._unforgotten))
            self._unforgotten.clear()

    def _note_places(self, lanes: Sequence[Lane]) -> None:
        """Notice by sequences that rise no longer that the stream was replaced by another."""
        if any(lane.lowest is not None and lane.lowest <= self._highest for lane in lanes):
            self._lost_messages = True
        self._highest = max([self._highest, *(lane.highest for lane in lanes)])
