"""The events of a namespace in JetStream, read from the beginning and compared with the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from perdure.bus import cloudevents, subjects
from tests.bench.say import reporting


@dataclass(frozen=True, slots=True)
class Compared:
    """The faults of the stream, and the number of correct events."""

    #: Ids of the ledger that never came.
    missing: frozenset[str]
    #: Messages whose id had come before.
    repeated: int
    #: Runs whose events did not come in the order of their numbers.
    disordered: frozenset[str]


def compare(expected: set[str], found: Sequence[str]) -> Compared:
    """Ids are `<uid of the run>/<number>`; `found` in the order in which they came."""
    seen: set[str] = set()
    newest: dict[str, int] = {}
    repeated = 0
    disordered = set()
    for id_ in found:
        if id_ in seen:
            repeated += 1
            continue
        seen.add(id_)
        uid, _, text = id_.rpartition("/")
        number = int(text)
        if number < newest.get(uid, 0):
            disordered.add(uid)
        newest[uid] = max(number, newest.get(uid, 0))
    return Compared(frozenset(expected - seen), repeated, frozenset(disordered))


async def events_of(ledger_url: str, namespace: str) -> set[str]:
    """Ids of all events that the ledger has of the namespace."""
    connection = await asyncpg.connect(ledger_url)
    try:
        rows = await connection.fetch(
            "select e.workflow_uid::text || '/' || e.sequence as id from perdure.event e"
            " join perdure.workflow w on w.uid = e.workflow_uid where w.namespace = $1",
            namespace,
        )
    finally:
        await connection.close()
    return {str(row["id"]) for row in rows}


async def read(url: str, namespace: str, *, expected: set[str], within: float) -> list[str]:
    """Ids from the stream's beginning, until all that are expected have come or so many seconds are over."""
    found: list[str] = []
    missing = set(expected)
    client = await nats.connect(url)
    try:
        async with reporting(lambda: f"{len(found)} of {len(expected)} events read from the stream"):
            deadline = time.monotonic() + within
            subscription = await _subscribed(client, namespace, deadline=deadline)
            while missing and time.monotonic() < deadline:
                try:
                    message = await subscription.next_msg(timeout=1)
                except (TimeoutError, nats.errors.TimeoutError):
                    continue
                event = cloudevents.decode(message.data)
                found.append(event.id)
                missing.discard(event.id)
    finally:
        await client.close()
    return found


async def _subscribed(
    client: Client, namespace: str, *, deadline: float
) -> JetStreamContext.PushSubscription:
    """The stream, as soon as it exists: the relay creates a lost one again after a while."""
    while True:
        try:
            return await client.jetstream().subscribe(
                f"{subjects.PREFIX}.{namespace}.>", ordered_consumer=True
            )
        except nats.js.errors.NotFoundError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
