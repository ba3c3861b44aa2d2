"""The relay's turns and rates, against a real Postgres and a real nats-server."""

from __future__ import annotations

import asyncio
from collections import Counter

from perdure.bus.namespace_rates import NamespaceRates
from perdure.bus.publisher import BATCH
from perdure.ledger import Ledger
from tests.integration.bus.conftest import Writer, assert_stream_equals_ledger, messages, relaying
from tests.integration.nats import NatsServer
from tests.support.waiting import until


class Clock:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def flood(writer: Writer, *, runs: int, events: int, namespace: str = "noisy") -> None:
    for _ in range(runs):
        uid = await writer.new_run(namespace=namespace)
        await writer.add(uid, *["task.progress"] * (events // runs))


async def test_an_event_overtakes_the_flood_of_another_namespace(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    await flood(writer, runs=20, events=10_000)
    quiet = await writer.new_run(namespace="quiet")
    await writer.add(quiet, "workflow.created", "workflow.started")
    async with relaying(ledger, nats_server) as relay:

        async def begun() -> bool:
            return relay.published > BATCH

        await until(begun)
        # Committed while the flood is being published.
        later = await writer.new_run(namespace="later")
        await writer.add(later, "workflow.created")
        # Only now: the relay publishes while the commit is under way.
        before = relay.published
        await until(writer.published)
    places: dict[str, int] = {}
    for place, (_, _, event) in enumerate(await messages(nats_server)):
        places.setdefault(event.namespace, place)
    # The batch that was read before it was known that more is waiting, and that of its own.
    assert places["quiet"] < 2 * BATCH
    assert places["later"] <= before + 3 * BATCH
    await assert_stream_equals_ledger(nats_server, writer)


async def test_events_beyond_the_rate_wait_in_the_outbox_and_no_other_namespace_with_them(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    clock = Clock()
    await flood(writer, runs=3, events=900)
    quiet = await writer.new_run(namespace="quiet")
    async with relaying(ledger, nats_server, rates=NamespaceRates(clock=clock, rate=100, burst=300)) as relay:

        async def held() -> bool:
            return relay.published >= 300

        await until(held)
        # Published although the other namespace has 600 older ones.
        await writer.add(quiet, "workflow.created", "workflow.started")

        async def passed() -> bool:
            return relay.published >= 302

        await until(passed)
        found = Counter(event.namespace for _, _, event in await messages(nats_server))
        assert found == {"noisy": 300, "quiet": 2}
        clock.now += 1.0

        async def released() -> bool:
            return relay.published >= 402

        await until(released)
        found = Counter(event.namespace for _, _, event in await messages(nats_server))
        assert found == {"noisy": 400, "quiet": 2}
        clock.now += 10.0
        await asyncio.sleep(0)

        async def rest() -> bool:
            clock.now += 0.1
            return await writer.published()

        await until(rest)
    await assert_stream_equals_ledger(nats_server, writer)
