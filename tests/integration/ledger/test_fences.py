"""Deposed operators and superseded attempts write nothing, whenever they find out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from perdure.domain.phases import Phase
from perdure.domain.records import Commit, Deposed, RunState, Superseded, VersionConflict
from perdure.ledger import AgentSession, Ledger, rows
from perdure.ledger.queries import SQL
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, START, at, event, load_live
from tests.support.waiting import until


async def blocked(ledger: Ledger) -> bool:
    """True while some statement waits for a lock."""
    found = await ledger.database.fetchrow("select count(*) as waiting from pg_locks where not granted")
    return bool(found["waiting"])


async def test_epochs_rise(ledger: Ledger) -> None:
    assert [await ledger.take_epoch(name) for name in "abc"] == [1, 2, 3]
    taken = await asyncio.gather(*(ledger.take_epoch("d") for _ in range(8)))
    assert sorted(taken) == list(range(4, 12))
    shards = await ledger.database.fetch("select count(*) as n, epoch from perdure.shard group by epoch")
    assert [(row["n"], row["epoch"]) for row in shards] == [(64, 11)]


async def test_a_deposed_operator_writes_nothing(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    finished = await samples.started(ledger, epoch, phase=Phase.SUCCEEDED, expires_at=START)
    await ledger.take_epoch("operator-b")

    with pytest.raises(Deposed):
        await ledger.commit(Commit(run=state.run, events=(event("workflow.started"),)), epoch=epoch)
    with pytest.raises(Deposed):
        await ledger.commit(Commit(run=samples.run_record()), epoch=epoch)
    with pytest.raises(Deposed):
        await ledger.record_pod(state.run.uid, state.attempts[KEY], pod_uid="other", epoch=epoch)
    with pytest.raises(Deposed):
        await ledger.fence_commits(state.run.uid, epoch=epoch)
    with pytest.raises(Deposed):
        await ledger.forget([finished.run.uid], epoch=epoch)
    with pytest.raises(Deposed):
        await ledger.forget_cache(START, limit=10, epoch=epoch)
    assert await ledger.load(state.run.uid) == state
    assert await ledger.load(finished.run.uid) == finished
    assert len(await ledger.events(state.run.uid)) == 1
    assert [entry.run.uid for entry in await load_live(ledger)] == [state.run.uid]


async def test_a_new_epoch_waits_for_statements_of_the_old_one(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    leader = await ledger.database.connect()
    try:
        transaction = leader.transaction()
        await transaction.start()
        row = await leader.fetchrow(SQL["commit"], *rows.commit_arguments(Commit(run=state.run), epoch))
        assert row["version"] == 2
        taking = asyncio.create_task(ledger.take_epoch("operator-b"))
        await until(lambda: blocked(ledger))
        assert not taking.done()
        await transaction.commit()
        assert await taking == epoch + 1
        # What was on its way is there before the new leader reads.
        loaded = await ledger.load(state.run.uid)
        assert loaded is not None
        assert loaded.run.version == 2
    finally:
        leader.terminate()


@pytest.mark.parametrize("new_run", [False, True])
async def test_a_statement_that_waited_for_the_new_epoch_is_deposed(
    ledger: Ledger, epoch: int, new_run: bool
) -> None:
    state = await samples.started(ledger, epoch)
    run = samples.run_record() if new_run else state.run
    follower = await ledger.database.connect()
    try:
        transaction = follower.transaction()
        await transaction.start()
        assert await follower.fetchval(SQL["take_epoch"], "operator-b") == epoch + 1
        # Its snapshot still shows the old epoch.
        late = asyncio.create_task(
            ledger.commit(Commit(run=run, tasks=(samples.task_record(),), events=(event("x"),)), epoch=epoch)
        )
        await until(lambda: blocked(ledger))
        await transaction.commit()
        with pytest.raises(Deposed):
            await late
    finally:
        follower.terminate()
    assert await ledger.load(run.uid) == (None if new_run else state)


async def test_a_commit_that_is_still_on_its_way_is_fenced(ledger: Ledger, epoch: int) -> None:
    """Its answer was lost, and it has not begun."""
    state = await samples.started(ledger, epoch)
    await ledger.fence_commits(state.run.uid, epoch=epoch)
    loaded = await ledger.load(state.run.uid)
    assert loaded == replace(state, run=replace(state.run, version=state.run.version + 1))
    with pytest.raises(VersionConflict):
        await ledger.commit(Commit(run=state.run, tasks=(samples.task_record(),)), epoch=epoch)
    assert await ledger.load(state.run.uid) == loaded


async def test_a_commit_that_has_begun_is_waited_for(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    other = await ledger.database.connect()
    try:
        transaction = other.transaction()
        await transaction.start()
        ended = replace(state.run, phase=Phase.SUCCEEDED)
        await other.fetchrow(SQL["commit"], *rows.commit_arguments(Commit(run=ended), epoch))
        fencing = asyncio.create_task(ledger.fence_commits(state.run.uid, epoch=epoch))
        await until(lambda: blocked(ledger))
        assert not fencing.done()
        await transaction.commit()
        await fencing
    finally:
        other.terminate()
    loaded = await ledger.load(state.run.uid)
    assert loaded is not None
    assert (loaded.run.phase, loaded.run.version) == (Phase.SUCCEEDED, state.run.version + 2)


async def test_there_is_nothing_to_fence_of_a_run_that_is_not_there(ledger: Ledger, epoch: int) -> None:
    run = samples.run_record()
    await ledger.fence_commits(run.uid, epoch=epoch)
    assert await ledger.load(run.uid) is None


Write = Callable[[Ledger, AgentSession], Awaitable[Any]]

WRITES: dict[str, Write] = {
    "checkpoint": lambda ledger, session: ledger.write_checkpoint(
        session, b"late", content_type="text/plain", now=at(99)
    ),
    "large checkpoint": lambda ledger, session: ledger.write_checkpoint(
        session, random_bytes(300_000), content_type="text/plain", now=at(99)
    ),
    "progress": lambda ledger, session: ledger.progress(session, 1, "late", at(99)),
    "heartbeat": lambda ledger, session: ledger.heartbeat(session, at(99)),
    "report": lambda ledger, session: ledger.report(session, samples.success("late", 99)),
}


def random_bytes(size: int) -> bytes:
    import random

    return random.Random(1).randbytes(size)


async def remains(ledger: Ledger, state: RunState) -> tuple[Any, ...]:
    return (
        await ledger.load(state.run.uid),
        await ledger.events(state.run.uid),
        await ledger.updates(state.run.uid, since=None),
        len(await ledger.outbox_batch(100)),
    )


@pytest.mark.parametrize("name", WRITES)
async def test_a_superseded_attempt_writes_nothing(ledger: Ledger, epoch: int, name: str) -> None:
    state = await samples.started(ledger, epoch)
    old = await samples.session_of(ledger, state)
    await samples.superseded(ledger, state, epoch)
    before = await remains(ledger, state)
    with pytest.raises(Superseded):
        await WRITES[name](ledger, old)
    assert await remains(ledger, state) == before


@pytest.mark.parametrize("name", WRITES)
async def test_an_attempt_that_is_not_the_newest_writes_nothing(
    ledger: Ledger, epoch: int, name: str
) -> None:
    """Even if it was left open, which the operator does not do."""
    state = await samples.started(ledger, epoch)
    old = await samples.session_of(ledger, state)
    await ledger.commit(
        Commit(
            run=state.run,
            tasks=(replace(state.tasks[KEY], attempt=2),),
            attempts=(samples.attempt_record(number=2),),
        ),
        epoch=epoch,
    )
    before = await remains(ledger, state)
    with pytest.raises(Superseded):
        await WRITES[name](ledger, old)
    assert await remains(ledger, state) == before


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_that_waited_while_its_attempt_was_closed(
    ledger: Ledger, epoch: int, name: str
) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    closing = Commit(run=state.run, attempts=(replace(state.attempts[KEY], closed_at=at(1)),))
    operator = await ledger.database.connect()
    try:
        transaction = operator.transaction()
        await transaction.start()
        await operator.fetchrow(SQL["commit"], *rows.commit_arguments(closing, epoch))
        # Its snapshot still shows the attempt open.
        late = asyncio.create_task(asyncio.wait_for(WRITES[name](ledger, session), 20))
        await until(lambda: blocked(ledger))
        await transaction.commit()
        with pytest.raises(Superseded):
            await late
    finally:
        operator.terminate()
    assert len(await ledger.events(state.run.uid)) == 1
    assert await ledger.latest_checkpoint(session) is None


async def test_a_decision_that_has_not_seen_a_report_is_refused(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    await ledger.report(session, samples.success({"n": 1}))
    lost = Commit(run=state.run, attempts=(replace(state.attempts[KEY], closed_at=at(1)),))
    with pytest.raises(VersionConflict):
        await ledger.commit(lost, epoch=epoch)
    updates = await ledger.updates(state.run.uid, since=None)
    assert updates.version == 2
    assert updates.reports == {KEY: (1, samples.success({"n": 1}))}
    seen = replace(lost, run=replace(state.run, version=updates.version))
    assert (await ledger.commit(seen, epoch=epoch)).version == 3
    loaded = await ledger.load(state.run.uid)
    assert loaded is not None
    assert loaded.attempts[KEY].report == samples.success({"n": 1})
    assert (await ledger.updates(state.run.uid, since=None)).reports == {}


async def test_a_decision_that_waited_for_a_report_is_refused(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    gateway = await ledger.database.connect()
    try:
        transaction = gateway.transaction()
        await transaction.start()
        report = rows.report_arguments(samples.success())
        row = await gateway.fetchrow(SQL["report"], session.workflow_uid, KEY.step, KEY.index, 1, *report)
        assert row["written"]
        late = asyncio.create_task(ledger.commit(Commit(run=state.run), epoch=epoch))
        await until(lambda: blocked(ledger))
        await transaction.commit()
        with pytest.raises(VersionConflict):
            await late
    finally:
        gateway.terminate()
