"""The relay: what was committed with an event in the outbox reaches JetStream, however often either is away.

It runs on the leader. Two of them for a moment do no harm: both publish under the same ids, and the stream
takes each id once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from perdure.aio import wait_for_event
from perdure.bus import stream
from perdure.bus.connection import Bus
from perdure.bus.errors import BusError, BusUnavailable
from perdure.bus.publisher import BATCH, Lane, lanes_by_run, publish_lanes
from perdure.bus.refill import History, Refill, look
from perdure.bus.stream import StreamLimits, StreamState
from perdure.domain.records import LedgerUnavailable, OutboxRow

_log = structlog.get_logger(__name__)

#: Seconds between looks at the outbox when nothing wakes us.
POLL = 0.25
#: Seconds from the beginning of one look to the next, for each event that it found, and at most: what many
#: commit, or one often, is published together. A single event goes at once.
ROUND = 0.004
LONGEST_ROUND = 0.012
#: Seconds after which the ledger is told what was published, so that a stream of single events does not cost
#: it a second transaction for each. After a crash so much is published again, under the same ids.
FORGET_EVERY = 0.1
#: Seconds between looks at a stream that gives no cause for one.
CHECK_INTERVAL = 30.0
#: Seconds given to one attempt to reach NATS before looking at `stop` again.
_PATIENCE = 5.0
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0


class Outbox(History, Protocol):
    """What the relay needs of the ledger. May raise LedgerUnavailable."""

    async def outbox_batch(self, limit: int, *, skip: Sequence[int] = ()) -> Sequence[OutboxRow]: ...

    async def outbox_done(self, ids: Sequence[int]) -> None: ...


class Relay:
    """Publishes the outbox in order, and refills a lost stream. Make one, and `run` it while leading."""

    def __init__(self, ledger: Outbox, bus: Bus, *, limits: StreamLimits | None = None) -> None:
        self._ledger = ledger
        self._bus = bus
        self._limits = limits or StreamLimits()
        self._stop = asyncio.Event()
        self._state: StreamState | None = None
        self._generation = 0
        self._checked_at = 0.0
        self._refill: Refill | None = None
        #: Highest place in the stream that was answered to us: the stream never legitimately ends before it.
        self._highest = 0
        self._lost_messages = False
        #: When the stream that we know was made.
        self._created: str | None = None
        #: The stream that we have refilled, by the time it was made: for servers that keep no mark.
        self._filled: str | None = None
        #: Rows that were published, and that the ledger was not told to forget yet. The stream remembers ids
        #: for some minutes only; a longer outage of the ledger must not publish them again.
        self._unforgotten: set[int] = set()
        #: When it is to be told, by the monotonic clock.
        self._forget_at = 0.0
        #: What the relay waits for, in words; None while all is well.
        self.waiting_for: str | None = None
        #: Events published since the start, refilled ones included.
        self.published = 0

    async def run(self, *, stop: asyncio.Event, wake: asyncio.Event) -> None:
        """Relay until `stop` is set; set `wake` after committing events. Returns within one publish timeout.

        Raises nothing but CancelledError: whatever is away is waited for. Cancelling is safe at any moment;
        events whose acknowledgement was not noted are published again under their ids.
        """
        self._stop = stop
        self._state = None
        delay = _FIRST_DELAY
        while not stop.is_set():
            # Cleared before the look: an event committed after it wakes us again.
            wake.clear()
            began = time.monotonic()
            try:
                found = await self._once()
            except (BusError, LedgerUnavailable) as error:
                self._note_failure(error)
            except Exception:
                # A defect must not silence all events for good.
                _log.exception("relay_failed")
            else:
                if self.waiting_for is not None:
                    self.waiting_for = None
                    _log.info("relay_recovered")
                delay = _FIRST_DELAY
                if found < BATCH:
                    # `stop` is looked at after the pause: to wait for both costs a task for each.
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
        """Seconds until there is something to do, if nothing wakes us."""
        return min(POLL, max(0.0, self._forget_at - time.monotonic())) if self._unforgotten else POLL

    def _note_failure(self, error: Exception) -> None:
        # An outage repeats itself; one line tells it.
        if self.waiting_for != str(error):
            self.waiting_for = str(error)
            _log.warning("relay_waits", error=str(error))

    async def _once(self) -> int:
        """Publish what there is, up to `BATCH`. Returns how much there was."""
        await self._connect()
        if self._stop.is_set():
            return 0
        state = await self._check()
        rows = await self._ledger.outbox_batch(BATCH, skip=list(self._unforgotten))
        if rows:
            await self._publish(rows, state)
        # What a refill puts in goes by what has left the outbox.
        late = self._refill is not None or time.monotonic() >= self._forget_at
        if late or len(self._unforgotten) >= BATCH:
            await self._forget()
        if self._refill is None:
            return len(rows)
        finished, failure = await self._refill.step(stopping=self._stop.is_set)
        if failure is not None:
            raise failure
        if finished:
            await stream.mark(self._bus, state, filled=True)
            _log.info("stream_refilled", events=self._refill.published)
            self.published += self._refill.published
            self._refill = None
            self._filled = state.created
            # Look again: the stream that we marked may have been replaced since we looked.
            self._state = None
        return BATCH

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
        """The stream as it is, made if missing, with a refill begun if it lacks anything."""
        generation, now = self._bus.generation, time.monotonic()
        known = self._state if generation == self._generation else None
        if known is not None and now - self._checked_at < CHECK_INTERVAL:
            return known
        state = await stream.ensure(self._bus, self._limits)
        replaced = self._created not in (None, state.created)
        # JetStream acknowledges before its disk has it: a power failure takes the stream's end.
        lost = replaced or self._lost_messages or state.last_sequence < self._highest
        if lost:
            self._lost_messages = True
            # They may have gone into what is lost.
            self._unforgotten.clear()
            self._refill, self._filled, self._highest = None, None, 0
            if state.filled and not replaced:
                # First the mark: if we die now, our successor refills.
                await stream.mark(self._bus, state, filled=False)
                state = await stream.ensure(self._bus, self._limits)
        if state.filled or state.created == self._filled:
            self._refill = None
        elif self._refill is None or known is None:
            # One that is under way goes on only if all that it put in is certainly still there.
            present = await look(self._bus, state)
            self._refill = Refill(self._ledger, self._bus, present, atomic=state.atomic)
            _log.warning("stream_incomplete", messages=state.messages, runs=len(present))
        # Only now: had we failed above, the loss would have to be noticed again.
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
        """Notice from the places in the stream that it was replaced by another one behind our back."""
        if any(lane.lowest is not None and lane.lowest <= self._highest for lane in lanes):
            self._lost_messages = True
        self._highest = max([self._highest, *(lane.highest for lane in lanes)])
