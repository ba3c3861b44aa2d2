"""Postgres dies in mid-traffic: what was acknowledged is there, and everybody goes on by themselves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from perdure.domain.records import Commit, LedgerUnavailable, TaskKey, VersionConflict
from perdure.ledger import Ledger
from tests.integration.ledger import samples
from tests.integration.ledger.samples import at, event, load_live
from tests.integration.postgres import PostgresServer
from tests.support.waiting import until

KEYS = tuple(TaskKey("each", index) for index in range(8))


async def test_nothing_acknowledged_is_lost(
    ledger: Ledger, ledger_url: str, epoch: int, postgres_server: PostgresServer
) -> None:
    state = await samples.started(ledger, epoch, *KEYS)
    done = asyncio.Event()
    acknowledged: dict[TaskKey, list[tuple[int, bytes]]] = {key: [] for key in KEYS}
    refusals = 0

    async def work(gateway: Ledger, key: TaskKey) -> None:
        nonlocal refusals
        session = await samples.session_of(gateway, state, key)
        number = 0
        while not done.is_set():
            number += 1
            data = f"{key} {number}".encode() * 20
            try:
                sequence = await gateway.write_checkpoint(
                    session, data, content_type="text/plain", label=str(number), now=at(number)
                )
            except LedgerUnavailable:
                refusals += 1
                await asyncio.sleep(0.01)
            else:
                acknowledged[key].append((sequence, data))

    async def decide() -> int:
        run, commits = state.run, 0
        while not done.is_set():
            try:
                committed = await ledger.commit(
                    Commit(run=run, events=(event("workflow.started"),)), epoch=epoch
                )
            except LedgerUnavailable:
                await asyncio.sleep(0.01)
            except VersionConflict:
                # Whether the unanswered commit took effect is unknown: load the run again.
                loaded = await ledger.load(run.uid)
                assert loaded is not None
                run = loaded.run
            else:
                run, commits = replace(run, version=committed.version), commits + 1
        return commits

    def total() -> int:
        return sum(len(kept) for kept in acknowledged.values())

    async def written(more: int) -> None:
        least = total() + more
        await until(lambda: total() >= least)

    async def refused() -> None:
        least = refusals + 1
        await until(lambda: refusals >= least)

    async with Ledger(ledger_url) as gateway, asyncio.TaskGroup() as group:
        for key in KEYS:
            group.create_task(work(gateway, key))
        deciding = group.create_task(decide())
        for _ in range(2):
            await written(200)
            postgres_server.kill()
            await refused()
            with pytest.raises(LedgerUnavailable):
                await load_live(ledger)
            await postgres_server.start_soon()
            await written(50)
        done.set()

    for key, written in acknowledged.items():
        sequences = [sequence for sequence, _ in written]
        assert sequences == sorted(set(sequences))
        session = await samples.session_of(ledger, state, key)
        latest = await ledger.latest_checkpoint(session)
        assert latest is not None
        assert latest.sequence >= sequences[-1]
        for sequence, data in written[-3:]:
            checkpoint = await ledger.checkpoint(session, sequence)
            if sequence > latest.sequence - 10:
                assert checkpoint is not None
                assert checkpoint.data == data
    events = await ledger.events(state.run.uid, limit=100_000)
    assert [entry.sequence for entry in events] == list(range(1, len(events) + 1))
    recorded = {(entry.task, entry.data["sequence"]) for entry in events if entry.type == "task.checkpointed"}
    assert recorded >= {
        (state.tasks[key].name, sequence) for key, written in acknowledged.items() for sequence, _ in written
    }
    assert sum(entry.type == "workflow.started" for entry in events) >= deciding.result() > 0


async def test_entering_needs_no_server(postgres_server: PostgresServer, ledger_url: str) -> None:
    postgres_server.kill()
    try:
        async with Ledger(ledger_url) as ledger:
            calls = [
                ledger.ready(),
                ledger.take_epoch("a"),
                load_live(ledger),
                ledger.commit(Commit(run=samples.run_record()), epoch=1),
                ledger.outbox_batch(1),
                ledger.attempt_for_pod("team-a", "pod"),
            ]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, LedgerUnavailable)
    finally:
        await postgres_server.start_soon()


async def test_a_server_that_does_not_answer(postgres_server: PostgresServer, ledger_url: str) -> None:
    async with Ledger(ledger_url, timeout=0.3) as ledger:
        epoch = await ledger.take_epoch("a")
        state = await samples.started(ledger, epoch)
        await ledger.outbox_batch(1)
        postgres_server.freeze()
        try:
            calls = [
                load_live(ledger),
                ledger.commit(Commit(run=state.run), epoch=epoch),
                ledger.outbox_batch(1),
                ledger.outbox_done([0]),
            ]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, LedgerUnavailable)
        finally:
            postgres_server.thaw()

        async def works() -> bool:
            try:
                loaded = await ledger.load(state.run.uid)
                assert loaded is not None
                await ledger.commit(Commit(run=loaded.run), epoch=epoch)
            except (LedgerUnavailable, VersionConflict):
                return False
            return True

        assert await until(works)


async def test_after_closing(ledger_url: str) -> None:
    async with Ledger(ledger_url) as ledger:
        await ledger.ready()
        await ledger.outbox_batch(1)
    with pytest.raises(LedgerUnavailable):
        await load_live(ledger)
    with pytest.raises(LedgerUnavailable):
        await ledger.commit(Commit(run=samples.run_record()), epoch=1)
    with pytest.raises(LedgerUnavailable):
        await ledger.outbox_batch(1)


async def test_the_outbox_is_read_again_after_its_connection_broke(
    ledger: Ledger, epoch: int, postgres_server: PostgresServer
) -> None:
    state = await samples.started(ledger, epoch)
    await ledger.commit(Commit(run=state.run, events=(event("workflow.started"),)), epoch=epoch)
    before = await ledger.outbox_batch(10)
    assert before
    postgres_server.kill()
    with pytest.raises(LedgerUnavailable):
        await ledger.outbox_batch(10)
    await postgres_server.start_soon()
    assert await ledger.outbox_batch(10) == before
    await ledger.outbox_done([row.id for row in before])
    assert await ledger.outbox_batch(10) == []


async def test_a_reader_of_the_outbox_that_was_cancelled_leaves_it_as_it_was(
    ledger: Ledger, epoch: int
) -> None:
    state = await samples.started(ledger, epoch)
    await ledger.commit(Commit(run=state.run, events=(event("workflow.started"),)), epoch=epoch)
    blocker = await ledger.database.connect()
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("lock table perdure.outbox in access exclusive mode")
        reading = asyncio.create_task(ledger.outbox_batch(10))

        async def waits() -> bool:
            row = await ledger.database.fetchrow("select count(*) as n from pg_locks where not granted")
            return bool(row["n"])

        assert await until(waits)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await transaction.rollback()
    finally:
        blocker.terminate()
    assert await ledger.outbox_batch(10)
