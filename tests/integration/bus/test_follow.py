"""Following a run: everything once, in order, to its end, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from perdure.bus import follow as follow_module
from perdure.bus.cloudevents import encode
from perdure.bus.connection import Bus
from perdure.bus.follow import follow
from perdure.bus.subjects import subject
from perdure.domain.records import Event
from perdure.ledger import Ledger
from tests.integration.bus.conftest import DEADLINE, Writer, relaying
from tests.integration.nats import NatsServer
from tests.support.waiting import until


class Reader:
    """Follows a run in the background and keeps what it gets."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self.got: list[Event] = []
        self._events = events
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._events):
            async for event in self._events:
                self.got.append(event)

    async def reaches(self, sequence: int) -> None:
        async def reached() -> bool:
            return bool(self.got) and self.got[-1].sequence >= sequence

        await until(reached)

    async def ends(self) -> list[int]:
        """The numbers of all events, once the following has ended by itself."""
        async with asyncio.timeout(DEADLINE):
            await self.task
        return [event.sequence for event in self.got]


@pytest.fixture
async def readers() -> AsyncIterator[list[Reader]]:
    started: list[Reader] = []
    yield started
    for reader in started:
        reader.task.cancel()
    await asyncio.gather(*(reader.task for reader in started), return_exceptions=True)


async def test_history_then_live_then_the_end(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only NATS delivers in time.
    monkeypatch.setattr(follow_module, "SAFETY_POLL", 10 * DEADLINE)
    uid = await writer.new_run()
    await writer.add(uid, "workflow.created", "workflow.started")
    notices: list[str] = []
    async with relaying(ledger, nats_server):
        reader = Reader(follow(ledger, writer.runs[uid], after=0, bus=bus, notice=notices.append))
        await reader.reaches(2)
        for _ in range(20):
            await writer.add(uid, "task.progress")
        await reader.reaches(22)
        await writer.finish(uid)
        assert await reader.ends() == list(range(1, 24))
    assert reader.got == await ledger.events(uid)
    assert notices == []


async def test_events_of_another_run_of_the_name_and_repeated_messages_are_left_out(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, bus: Bus, readers: list[Reader]
) -> None:
    old, new = await writer.new_run("audit"), await writer.new_run("audit")
    await writer.add(old, "workflow.created", "workflow.started")
    await writer.add(new, "workflow.created")
    reader = Reader(follow(ledger, writer.runs[new], after=0, bus=bus, notice=print))
    readers.append(reader)
    # Two relays publish many events twice, as plain subscribers see it.
    async with relaying(ledger, nats_server), relaying(ledger, nats_server):
        await reader.reaches(1)
        for _ in range(10):
            await writer.add(old, "task.progress")
            await writer.add(new, "task.progress")
        await writer.finish(old)
        await writer.finish(new)
        assert await reader.ends() == list(range(1, 13))
    assert {event.workflow_uid for event in reader.got} == {new}


async def test_nats_killed_while_following(
    nats_server: NatsServer, ledger: Ledger, writer: Writer, bus: Bus, readers: list[Reader]
) -> None:
    uid = await writer.new_run()
    notices: list[str] = []
    async with relaying(ledger, nats_server):
        reader = Reader(follow(ledger, writer.runs[uid], after=0, bus=bus, notice=notices.append))
        readers.append(reader)
        await writer.add(uid, "workflow.created")
        await reader.reaches(1)
        await nats_server.kill()
        await writer.add(uid, "workflow.started", "task.scheduled")
        # From the ledger, as nothing is relayed now.
        await reader.reaches(3)
        await nats_server.start()
        await writer.add(uid, "task.started")
        await reader.reaches(4)

        async def back() -> bool:
            return any("back" in notice for notice in notices)

        await until(back)
        await writer.finish(uid)
        assert await reader.ends() == [1, 2, 3, 4, 5]
    assert "NATS is away" in notices[0]


async def test_without_nats_the_ledger_is_polled(
    ledger: Ledger, writer: Writer, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "POLL", 0.05)
    uid = await writer.new_run()
    notices: list[str] = []
    async with Bus("nats://127.0.0.1:1", name="test") as away:
        for bus in (None, away):
            readers.append(Reader(follow(ledger, writer.runs[uid], after=0, bus=bus, notice=notices.append)))
        await writer.add(uid, "workflow.created")
        for reader in readers:
            await reader.reaches(1)
        await writer.finish(uid)
        for reader in readers:
            assert await reader.ends() == [1, 2]
    assert len(notices) == 2


async def test_a_gap_is_filled_from_the_ledger(
    ledger: Ledger, writer: Writer, bus: Bus, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "SAFETY_POLL", 10 * DEADLINE)
    uid = await writer.new_run("audit")
    await writer.add(uid, "workflow.created")
    reader = Reader(follow(ledger, writer.runs[uid], after=0, bus=bus, notice=print))
    readers.append(reader)
    await reader.reaches(1)
    await writer.add(uid, "workflow.started", "task.scheduled", "task.started")
    # Of three events only the last reaches us.
    last = (await ledger.events(uid))[-1]

    async def noticed() -> bool:
        await bus.client.publish(subject(last.namespace, last.workflow, last.type), encode(last))
        return reader.got[-1].sequence == 4

    await until(noticed)
    assert [event.sequence for event in reader.got] == [1, 2, 3, 4]


async def test_events_that_were_never_published_are_found_in_the_ledger(
    ledger: Ledger, writer: Writer, bus: Bus, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "SAFETY_POLL", 0.1)
    uid = await writer.new_run()
    reader = Reader(follow(ledger, writer.runs[uid], after=0, bus=bus, notice=print))
    readers.append(reader)
    await writer.add(uid, "workflow.created")
    await reader.reaches(1)
    await writer.finish(uid, "workflow.cancelled")
    assert await reader.ends() == [1, 2]


async def test_a_finished_run_ends_at_once_even_from_beyond_its_end(
    ledger: Ledger, writer: Writer, bus: Bus
) -> None:
    uid = await writer.new_run()
    await writer.add(uid, *["task.progress"] * 3)
    await writer.finish(uid)
    for after, expected in ((0, [1, 2, 3, 4]), (2, [3, 4]), (4, []), (99, [])):
        reader = Reader(follow(ledger, writer.runs[uid], after=after, bus=bus, notice=print))
        assert await reader.ends() == expected


async def test_a_task_that_runs_alone_ends_with_its_own_event(
    ledger: Ledger, writer: Writer, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "SAFETY_POLL", 0.1)
    workflow, task = await writer.new_run("one"), await writer.new_run("two", kind="AgentTask")
    for uid in (workflow, task):
        await writer.add(uid, "task.started", "task.failed")
    reader = Reader(follow(ledger, writer.runs[task], after=0, bus=bus, notice=print))
    assert await reader.ends() == [1, 2]
    # In a Workflow the failure of one task is not the end.
    going_on = Reader(follow(ledger, writer.runs[workflow], after=0, bus=bus, notice=print))
    await going_on.reaches(2)
    await writer.finish(workflow, "workflow.failed")
    assert await going_on.ends() == [1, 2, 3]


async def test_following_ends_when_the_run_is_deleted(
    ledger: Ledger, writer: Writer, readers: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "POLL", 0.05)
    uid = await writer.new_run("gone")
    await writer.add(uid, "workflow.created")
    reader = Reader(follow(ledger, writer.runs[uid], after=0, bus=None, notice=print))
    readers.append(reader)
    await reader.reaches(1)
    # A newer run of the same name takes its place.
    await writer.new_run("gone")
    assert await reader.ends() == [1]
