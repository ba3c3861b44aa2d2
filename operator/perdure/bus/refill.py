"""The refill of a stream that was lost, or lost its end, from the ledger.

The relay reads once what the stream still holds, then publishes what follows, run by run. A run whose new
events are about to be published goes first: no old event is then published after a new one of its run, and no
new event waits for the history of other runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

import nats.errors
import nats.js.errors
import structlog
from nats.js.api import DeliverPolicy

from perdure.bus import subjects
from perdure.bus.connection import REQUEST_TIMEOUT, Bus
from perdure.bus.errors import BusError, BusUnavailable
from perdure.bus.publisher import BATCH, Lane, publish_lanes
from perdure.bus.stream import STREAM, StreamState
from perdure.domain.records import Event

_log = structlog.get_logger(__name__)

#: Runs that are refilled at once.
_RUNS = 32


class History(Protocol):
    """The part of the ledger that a refill reads. May raise LedgerUnavailable."""

    async def events(self, uid: str, *, after: int = 0, limit: int = 1000) -> list[Event]: ...

    async def published(self, *, after: str | None = None, limit: int = 1000) -> list[tuple[str, int]]:
        """All runs above `after`, by uid: (uid, number up to which its events have left the outbox)."""
        ...


class Refill:
    """One refill. A failure ends it; the next refill finds in the stream what this one published."""

    def __init__(self, history: History, bus: Bus, present: Mapping[str, int], *, atomic: bool) -> None:
        """`present`: for each run, the number up to which the stream has its events without gap."""
        self._history = history
        self._bus = bus
        self._present = present
        self._atomic = atomic
        self._filled: set[str] = set()
        self._cursor: str | None = None
        self.published = 0

    async def before(self, heads: Mapping[str, int], *, stopping: Callable[[], bool]) -> BusError | None:
        """Refill these runs up to, not including, the event with the number given for each."""
        lacking = {uid: end for uid, end in heads.items() if uid not in self._filled}
        return await self._fill(lacking, stopping)

    async def step(self, *, stopping: Callable[[], bool]) -> tuple[bool, BusError | None]:
        """Refill some more runs. Returns whether all are done, and the failure if there was one."""
        page = await self._history.published(after=self._cursor, limit=_RUNS)
        lacking = {uid: newest + 1 for uid, newest in page if uid not in self._filled}
        failure = await self._fill(lacking, stopping)
        if failure is None and page and not stopping():
            self._cursor = page[-1][0]
        return not page, failure

    async def _fill(self, ends: Mapping[str, int], stopping: Callable[[], bool]) -> BusError | None:
        position = {uid: self._present.get(uid, 0) for uid in ends}
        while position and not stopping():
            lanes: dict[str, Lane] = {}
            # One page of each run is in memory at a time, never a run's whole history.
            for uid, after in list(position.items()):
                events = await self._history.events(uid, after=after, limit=BATCH)
                events = [event for event in events if event.sequence < ends[uid]]
                if events:
                    lanes[uid] = Lane(events)
                else:
                    self._filled.add(uid)
                    del position[uid]
            if not lanes:
                break
            failure = await publish_lanes(
                self._bus, list(lanes.values()), atomic=self._atomic, stopping=stopping
            )
            for uid, lane in lanes.items():
                position[uid] += lane.done
                self.published += lane.done
            if failure is not None:
                return failure
        return None


async def read_present(bus: Bus, state: StreamState) -> dict[str, int]:
    """For each run in the stream, the number up to which the stream has its events without gap.

    Reads headers only. If the stream has discarded its oldest messages, the oldest event of a run counts as
    its first: events that aged out are not published again. Raises BusUnavailable.
    """
    tally = Tally(discarded=state.first_sequence > 1)
    if state.messages:
        await bus.unless_lost(_read(bus, state, tally))
    return tally.present


async def _read(bus: Bus, state: StreamState, tally: Tally) -> None:
    try:
        subscription = await bus.jetstream.subscribe(
            subjects.ALL,
            stream=STREAM,
            ordered_consumer=True,
            headers_only=True,
            deliver_policy=DeliverPolicy.ALL,
            # Seconds; the library creates the consumer again after two without a message.
            idle_heartbeat=1,
            # Seconds after which the server deletes a consumer that has lost its client.
            inactive_threshold=30,
        )
        try:
            while True:
                try:
                    message = await subscription.next_msg(REQUEST_TIMEOUT)
                except nats.errors.TimeoutError:
                    if not bus.connected:
                        raise
                    # A damaged store counts messages that it cannot deliver. To publish those once more is
                    # better than to wait for ever.
                    _log.warning("stream_unreadable", seen=tally.seen, messages=state.messages)
                    return
                tally.add((message.headers or {}).get("Nats-Msg-Id", ""))
                place = message.metadata
                # Later messages are this relay's own.
                if place.num_pending == 0 or place.sequence.stream >= state.last_sequence:
                    return
        finally:
            # Also without a connection: else the library goes on creating the consumer again.
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
    except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
        raise BusUnavailable(f"cannot read the stream: {error!r}") from error


class Tally:
    """How far each run's events go without gap, counted from message ids in stream order."""

    def __init__(self, *, discarded: bool) -> None:
        self._discarded = discarded
        self.present: dict[str, int] = {}
        #: Messages counted.
        self.seen = 0

    def add(self, message_id: str) -> None:
        """Count the next message; ids of other publishers are ignored."""
        self.seen += 1
        uid, _, number = message_id.rpartition("/")
        # A sequence has at most 19 digits; `int` raises for more than 4,300.
        if not uid or not number.isdecimal() or len(number) > 19:
            return
        sequence, known = int(number), self.present.get(uid)
        if known is None:
            if sequence == 1 or self._discarded:
                self.present[uid] = sequence
        elif sequence == known + 1:
            self.present[uid] = sequence
