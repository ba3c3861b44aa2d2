"""The relay against a real Postgres and a real nats-server: nothing lost, nothing twice, all in order."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.bus import connection, publisher, refill, relay, stream
from perdure.bus.connection import Bus
from perdure.bus.publisher import Lane, publish_lanes
from perdure.bus.relay import Relay
from perdure.domain.records import LedgerUnavailable
from perdure.ledger import Ledger
from tests.integration.bus.conftest import (
    DEADLINE,
    Writer,
    assert_stream_equals_ledger,
    messages,
    relaying,
    stream_is_filled,
)
from tests.integration.nats import NatsServer
from tests.integration.postgres import PostgresServer
from tests.support.waiting import until


@asynccontextmanager
async def traffic(writer: Writer, *, runs: int = 6, seed: int = 1) -> AsyncIterator[asyncio.Event]:
    """Commits events of several runs in the background until left. The event is set after each commit."""
    uids = [await writer.new_run() for _ in range(runs)]
    chance, stop, beat = random.Random(seed), asyncio.Event(), asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            try:
                await writer.add(chance.choice(uids), *["task.progress"] * chance.randint(1, 4))
            except LedgerUnavailable:
                await asyncio.sleep(0.02)
            beat.set()
            await asyncio.sleep(0.001)

    task = asyncio.create_task(write())
    try:
        yield beat
    finally:
        stop.set()
        await task


async def commits(beat: asyncio.Event, count: int) -> None:
    """Wait for so many more commits."""
    async with asyncio.timeout(DEADLINE):
        for _ in range(count):
            beat.clear()
            await beat.wait()


async def test_publishes_what_was_committed_before_and_after_its_start(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    first, second = await writer.new_run("first"), await writer.new_run("second")
    await writer.add(first, "workflow.created", "workflow.started", "task.scheduled")
    await writer.add(second, "workflow.created")
    async with relaying(ledger, nats_server):
        await until(writer.published)
        await writer.add(second, "task.checkpointed")
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)
    subjects = [where for _, where, _ in await messages(nats_server)]
    assert subjects[-1] == "perdure.events.team-a.second.task.checkpointed"


async def test_a_burst_of_one_run_keeps_its_order(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    uid = await writer.new_run()
    await writer.add(uid, *["task.scheduled"] * 700)
    async with relaying(ledger, nats_server):
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_servers_without_atomic_batches_are_served_as_well(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_ATOMIC_SINCE", (99, 0))
    uid = await writer.new_run()
    await writer.add(uid, *["task.scheduled"] * 300)
    async with relaying(ledger, nats_server):
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_a_batch_that_is_partly_stored_already_is_completed(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, bus: Bus
) -> None:
    uid = await writer.new_run()
    await writer.add(uid, *["task.scheduled"] * 100)
    events = await ledger.events(uid)
    state = await stream.ensure(bus, stream.StreamLimits())
    assert state.atomic
    for lane in (Lane(events[:3]), Lane(events)):
        assert await publish_lanes(bus, [lane], atomic=True, stopping=lambda: False) is None
        assert lane.done == len(lane.events)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_nats_killed_in_the_middle_of_traffic(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    async with relaying(ledger, nats_server):
        async with traffic(writer) as beat:
            for _ in range(3):
                await commits(beat, 60)
                await nats_server.kill()
                await commits(beat, 20)
                await nats_server.start()
            await commits(beat, 20)
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_nats_away_at_the_start(nats_server: NatsServer, ledger: Ledger, writer: Writer) -> None:
    await nats_server.kill()
    uid = await writer.new_run()
    async with relaying(ledger, nats_server):
        await writer.add(uid, "workflow.created", "workflow.started")
        assert not await writer.published()
        await nats_server.start()
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_an_answer_that_came_too_late_makes_no_second_message(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connection, publisher, stream, refill):
        monkeypatch.setattr(module, "REQUEST_TIMEOUT", 0.3)
    uids = [await writer.new_run() for _ in range(3)]
    async with relaying(ledger, nats_server) as working:
        for uid in uids:
            await writer.add(uid, "workflow.created")
        await until(writer.published)
        nats_server.freeze()
        for uid in uids:
            await writer.add(uid, "workflow.started", "task.scheduled")

        async def gave_up() -> bool:
            return working.waiting_for is not None

        await until(gave_up)
        nats_server.thaw()
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_a_lost_store_is_refilled_from_the_ledger(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    uids = [await writer.new_run() for _ in range(40)]
    async with relaying(ledger, nats_server):
        for uid in uids:
            await writer.add(uid, "workflow.created", "workflow.started", "task.scheduled")
        await writer.add(uids[0], *["task.progress"] * 600)
        await writer.finish(uids[1])
        await until(writer.published)
        await nats_server.kill()
        nats_server.lose_store()
        await nats_server.start()

        async def filled() -> bool:
            return await stream_is_filled(nats_server)

        await until(filled)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_a_store_lost_in_the_middle_of_traffic(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    async with relaying(ledger, nats_server):
        async with traffic(writer) as beat:
            await commits(beat, 80)
            await nats_server.kill()
            nats_server.lose_store()
            await nats_server.start()
            await commits(beat, 80)
        await until(writer.published)

        async def filled() -> bool:
            return await stream_is_filled(nats_server)

        await until(filled)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_a_stream_that_was_replaced_behind_our_back_is_refilled(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, bus: Bus
) -> None:
    uids = [await writer.new_run() for _ in range(3)]
    async with relaying(ledger, nats_server):
        for uid in uids:
            await writer.add(uid, "workflow.created", "workflow.started")

        async def filled() -> bool:
            return await stream_is_filled(nats_server)

        await until(filled)
        # Once this is published, the relay has checked the stream, and found it complete.
        await writer.add(uids[0], "task.scheduled")
        await until(writer.published)
        await bus.jetstream.delete_stream(stream.STREAM)
        await bus.jetstream.add_stream(name=stream.STREAM, subjects=["perdure.events.>"])
        # The connection stays: only the acknowledgements show that it is another stream.
        await writer.add(uids[2], "task.scheduled")
        await until(writer.published)
        await until(filled)
    found = {message_id for message_id, _, _ in await messages(nats_server)}
    assert found == {event.id for events in (await writer.history()).values() for event in events}


async def test_a_stream_that_lost_its_end_gets_it_back(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, tmp_path: Path
) -> None:
    uid = await writer.new_run()
    async with relaying(ledger, nats_server):
        await writer.add(uid, *["task.progress"] * 30)
        await until(writer.published)
        await nats_server.stop()
        shutil.copytree(nats_server.store, tmp_path / "older")
        await nats_server.start()
        await writer.add(uid, *["task.progress"] * 30)
        await until(writer.published)
        # What a power failure does: messages that were acknowledged never reached the disk.
        await nats_server.kill()
        nats_server.lose_store()
        shutil.copytree(tmp_path / "older", nats_server.store)
        await nats_server.start()

        async def complete() -> bool:
            return await stream_is_filled(nats_server) and len(await messages(nats_server)) == 60

        await until(complete)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_a_refill_that_was_cut_short_is_taken_up(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "_RUNS", 2)
    for _ in range(12):
        await writer.add(await writer.new_run(), "workflow.created", "workflow.started")
    while rows := await ledger.outbox_batch(100):
        # As if published into a stream that is gone.
        await ledger.outbox_done([row.id for row in rows])
    async with Bus(nats_server.url, name="relay") as bus:
        working = asyncio.create_task(
            Relay(ledger, bus).run(stop=asyncio.Event(), wake=ledger.outbox_written)
        )

        async def begun() -> bool:
            try:
                return len(await messages(nats_server)) >= 4
            except Exception:
                return False

        await until(begun)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    async with relaying(ledger, nats_server):

        async def filled() -> bool:
            return await stream_is_filled(nats_server)

        await until(filled)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_two_relays_at_once_publish_each_event_once(
    nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    async with relaying(ledger, nats_server), relaying(ledger, nats_server):
        async with traffic(writer) as beat:
            await commits(beat, 150)
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_the_ledger_killed_in_the_middle_of_traffic(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, postgres_server: PostgresServer
) -> None:
    async with relaying(ledger, nats_server):
        async with traffic(writer) as beat:
            await commits(beat, 60)
            postgres_server.kill()
            await commits(beat, 5)
            await postgres_server.start_soon()
            await commits(beat, 30)
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_events_that_could_not_be_deleted_from_the_outbox_are_not_published_again(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stream forgets ids at once: only the relay's own memory can prevent a second message.
    monkeypatch.setattr(stream, "DUPLICATE_WINDOW", 0.1)
    forget, refusals = ledger.outbox_done, iter([True, True])

    async def reluctant(ids: list[int]) -> None:
        if next(refusals, False):
            await asyncio.sleep(0.3)
            raise LedgerUnavailable("away")
        await forget(ids)

    monkeypatch.setattr(ledger, "outbox_done", reluctant)
    uid = await writer.new_run()
    await writer.add(uid, "workflow.created", "workflow.started")
    async with relaying(ledger, nats_server):
        await until(writer.published)
    await assert_stream_equals_ledger(nats_server, writer)


async def test_single_events_are_not_forgotten_one_by_one(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, calls = ledger.outbox_done, list[int]()

    async def counted(ids: list[int]) -> None:
        calls.append(len(ids))
        await forget(ids)

    monkeypatch.setattr(ledger, "outbox_done", counted)
    # However slow the machine: events are deleted from the outbox in batches, and the rest at the end.
    monkeypatch.setattr(relay, "FORGET_EVERY", 3600.0)
    uid = await writer.new_run()
    async with relaying(ledger, nats_server) as working:
        await until(lambda: stream_is_filled(nats_server))
        for number in range(20):

            async def follows(published: int = working.published) -> bool:
                return working.published > published

            await writer.add(uid, f"custom.{number}")
            await until(follows)
    assert sum(calls) == 20 and len(calls) <= 2
    assert await writer.published()
    await assert_stream_equals_ledger(nats_server, writer)


async def test_stopping_returns_soon_while_nats_is_away(nats_server: NatsServer, ledger: Ledger) -> None:
    await nats_server.kill()
    async with Bus(nats_server.url, name="relay") as bus:
        stop = asyncio.Event()
        task = asyncio.create_task(Relay(ledger, bus).run(stop=stop, wake=asyncio.Event()))
        await asyncio.sleep(0)
        stop.set()
        async with asyncio.timeout(DEADLINE):
            await task
    assert relay.POLL < DEADLINE
