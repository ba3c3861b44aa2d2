"""The publishing of events, so that those of one run enter the stream in the order of their numbers.

A connection can die between two messages: the first is lost with the old socket while the second, still in
the client's buffer, arrives over the new one. So a run never has two separate messages under way. Many events
of one run go as one atomic batch where the server can do that (all are stored, in order, or none); otherwise
each waits for the acknowledgement of the one before. Different runs are published in parallel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import nats.errors
import orjson
import structlog
from nats.aio.client import Client

from perdure.bus import subjects
from perdure.bus.cloudevents import encode
from perdure.bus.connection import REQUEST_TIMEOUT, Bus
from perdure.bus.errors import BusError, BusUnavailable, StreamMissing
from perdure.bus.stream import STREAM
from perdure.domain.records import Event

_log = structlog.get_logger(__name__)

#: Events in one atomic batch; the server allows 1,000 messages.
BATCH = 256
#: Fewer than this go faster one by one: a batch costs the server about 12 ms, for the files it stages it in.
_BATCH_MINIMUM = 48
_TOO_LARGE = 10054
_WRONG_STREAM = 10060


def lanes_by_run(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Events by run, each in the order of their numbers; runs in the order of their first event."""
    lanes: dict[str, list[Event]] = {}
    for event in events:
        lanes.setdefault(event.workflow_uid, []).append(event)
    for lane in lanes.values():
        lane.sort(key=lambda event: event.sequence)
    return lanes


class Lane:
    """Events of one run, in order, and how many of them are published."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        #: How many events, from the first on, are in the stream, or can never be.
        self.done = 0
        #: Why no more were published.
        self.failure: BusError | None = None
        #: Lowest stream sequence that a newly stored event got.
        self.lowest: int | None = None
        #: Highest stream sequence that was acknowledged.
        self.highest = 0

    @property
    def rest(self) -> Sequence[Event]:
        return self.events[self.done :]

    def _acknowledged(self, count: int, *, sequence: int, duplicate: bool) -> None:
        self.done += count
        self.highest = max(self.highest, sequence)
        if not duplicate:
            first = sequence - count + 1
            self.lowest = first if self.lowest is None else min(self.lowest, first)

    async def publish(self, bus: Bus, *, atomic: bool, stopping: Callable[[], bool]) -> None:
        """Publish until all events are done, one fails (`failure`), or `stopping()` is true."""
        try:
            client = bus.client
            while self.rest and not stopping():
                if atomic and len(self.rest) >= _BATCH_MINIMUM and await self._publish_batch(bus):
                    continue
                atomic = False
                await self._publish_one(client)
        except BusError as error:
            self.failure = error

    async def _publish_one(self, client: Client) -> None:
        """As `JetStreamContext.publish`, whose objects cost as much CPU time as the request itself."""
        event = self.rest[0]
        try:
            subject = subjects.subject(event.namespace, event.workflow, event.type)
            answer = await client.request(
                subject, encode(event), timeout=REQUEST_TIMEOUT, headers=_headers(event)
            )
        except (ValueError, nats.errors.MaxPayloadError, nats.errors.BadSubjectError) as error:
            self._skip(event, error)
            return
        except nats.errors.NoRespondersError as error:
            raise StreamMissing("no stream takes perdure.events") from error
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(f"JetStream did not acknowledge: {error!r}") from error
        result = _answer_of(answer.data)
        if "error" not in result:
            self._acknowledged(1, sequence=result["seq"], duplicate=bool(result.get("duplicate")))
            return
        code = result["error"].get("err_code")
        if code == _TOO_LARGE:
            self._skip(event, result["error"])
        elif code == _WRONG_STREAM:
            raise BusUnavailable(f"a stream other than {STREAM} takes {subjects.ALL}")
        else:
            raise BusUnavailable(f"JetStream refused an event: {result['error']}")

    def _skip(self, event: Event, error: object) -> None:
        # A retry would block the events of the run for ever. Readers see the gap and read the ledger.
        _log.error("event_unpublishable", event_id=event.id, type=event.type, error=str(error))
        self.done += 1

    async def _publish_batch(self, bus: Bus) -> bool:
        """Publish one atomic batch. False if none of its events was stored: publish them one by one.

        If the answer is lost, the events are published again one by one, and are duplicates to the server.
        """
        events = self.rest[:BATCH]
        try:
            messages = [
                (subjects.subject(event.namespace, event.workflow, event.type), encode(event), event)
                for event in events
            ]
            client = bus.client
            # Unique for each try: the server remembers a batch that was cut off.
            batch = client.new_inbox().rpartition(".")[2]
            for number, (subject, payload, event) in enumerate(messages[:-1], start=1):
                await client.publish(subject, payload, headers=_headers(event, batch=batch, number=number))
            subject, payload, event = messages[-1]
            headers = _headers(event, batch=batch, number=len(messages)) | {"Nats-Batch-Commit": "1"}
            answer = await client.request(subject, payload, timeout=REQUEST_TIMEOUT, headers=headers)
        except nats.errors.NoRespondersError as error:
            raise StreamMissing("no stream takes perdure.events") from error
        except (ValueError, nats.errors.MaxPayloadError, nats.errors.BadSubjectError):
            return False
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(f"JetStream did not acknowledge a batch: {error!r}") from error
        result = _answer_of(answer.data)
        if "error" in result or result.get("count") != len(events):
            # Most often one event is in the stream already, and the server refuses the whole batch.
            _log.debug("batch_refused", error=result.get("error"))
            return False
        self._acknowledged(len(events), sequence=result["seq"], duplicate=False)
        return True


def _answer_of(data: bytes) -> dict[str, Any]:
    """The answer of JetStream to a message. Raises BusUnavailable for anything else."""
    try:
        answer = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BusUnavailable(f"not an answer of JetStream: {data[:200]!r}") from error
    if not isinstance(answer, dict) or not ("seq" in answer or isinstance(answer.get("error"), dict)):
        raise BusUnavailable(f"not an answer of JetStream: {data[:200]!r}")
    return answer


def _headers(event: Event, *, batch: str | None = None, number: int = 0) -> dict[str, str]:
    headers = {
        "Nats-Msg-Id": event.id,
        "Nats-Expected-Stream": STREAM,
        "Content-Type": "application/cloudevents+json",
    }
    if batch is not None:
        headers |= {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
    return headers


async def publish_lanes(
    bus: Bus, lanes: Sequence[Lane], *, atomic: bool, stopping: Callable[[], bool]
) -> BusError | None:
    """Publish all lanes at once; returns the first failure. Each lane has how many of its events are done.

    Ends early when the connection is lost: events without an acknowledgement have failed, and may be
    published again under the same id. Cancelling leaves the lanes as they are.
    """
    work = asyncio.gather(
        *(lane.publish(bus, atomic=atomic, stopping=stopping) for lane in lanes), return_exceptions=True
    )
    try:
        outcomes = await bus.unless_lost(work)
    except BusUnavailable as error:
        return error
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    return next((lane.failure for lane in lanes if lane.failure is not None), None)
