"""From the first schema to the newest under live runs, with old and new code at the same time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Commit, LedgerUnavailable, RunRecord, RunState, StepRecord
from perdure.ledger import Ledger, migrate, rows
from perdure.ledger.database import connect
from perdure.ledger.migrate import apply, migrations
from perdure.ledger.queries import SQL, parse
from tests.integration.ledger import samples
from tests.integration.ledger.samples import (
    KEY,
    START,
    at,
    attempt_record,
    event,
    load_live,
    run_record,
    task_record,
)
from tests.support.waiting import until

OLD: Final = parse(Path(__file__).with_name("statements_0001.sql").read_text())
EPOCH: Final = 1


@pytest.fixture
async def old_url(database_url: str) -> str:
    """A database with the first schema, whose writer has the epoch 1."""
    await apply(database_url, migrations()[:1])
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval(SQL["take_epoch"], "operator-a") == EPOCH
    await connection.close()
    return database_url


@pytest.fixture
async def old(old_url: str) -> AsyncIterator[Any]:
    """A connection of code that knows the first schema only."""
    connection = await connect(old_url, timeout=20)
    yield connection
    connection.terminate()


async def old_commit(connection: Any, commit: Commit) -> Any:
    # What it did not know is passed over: records are taken apart by the names of their fields.
    return await connection.fetchrow(OLD["commit"], *rows.commit_arguments(commit, EPOCH))


def live_run(name: str, **changes: Any) -> Commit:
    """A run as old code writes it: one running attempt in the pod of the run's name."""
    return Commit(
        run=run_record(name=name, started_at=START, **changes),
        steps=(StepRecord(name="work", phase=Phase.RUNNING, started_at=START),),
        tasks=(task_record(phase=Phase.RUNNING, input={"n": 1}, retries=1, started_at=START),),
        attempts=(attempt_record(pod_uid=f"pod-{name}", started_at=START),),
        events=(event("workflow.created"), event("task.started", task="audit-work--1", attempt=1)),
    )


def state_of(commit: Commit, *, version: int = 1, events: int = 2) -> RunState:
    return RunState(
        run=replace(commit.run, version=version, last_sequence=events),
        steps={step.name: step for step in commit.steps},
        tasks={task.key: task for task in commit.tasks},
        attempts={attempt.key: attempt for attempt in commit.attempts},
    )


async def old_checkpoint(connection: Any, run: RunRecord, number: int, label: str | None) -> Any:
    place = run.uid, KEY.step, KEY.index, 1
    data = str(number).encode()
    about = "text/plain", label, len(data), len(data), "identity", b"\0" * 32, data, 10
    return await connection.fetchrow(OLD["write_checkpoint"], *place, at(number), *about)


async def test_live_runs_go_on(old: Any, old_url: str) -> None:
    first, second = live_run("first"), live_run("second", spec={"steps": [], "retention": {}})
    over = live_run("over", phase=Phase.SUCCEEDED, finished_at=at(1), expires_at=at(2))
    for commit in (first, second, over):
        assert (await old_commit(old, commit))["version"] == 1
    for number in (1, 2):
        await old_checkpoint(old, first.run, number, f"part {number}")

    assert await migrate(old_url) == [migration.name for migration in migrations()[1:]]

    async with Ledger(old_url) as ledger:
        await ledger.ready()
        states = {state.run.name: state for state in await load_live(ledger)}
        assert states == {"first": state_of(first, events=4), "second": state_of(second)}
        assert [run[0] for run in await ledger.expired(at(2), limit=9)] == [over.run.uid]
        session = await ledger.attempt_for_pod("team-a", "pod-first")
        assert session is not None
        assert (session.open, session.last_failure, session.checkpoints_per_task) == (True, None, 10)
        assert (session.checkpoint_sequence, session.checkpoint_label) == (2, "part 2")
        assert session.checkpoint_at == at(2)
        assert await ledger.write_checkpoint(session, b"3", content_type="text/plain", now=at(3)) == 3

        # The epoch goes on, too.
        epoch = await ledger.take_epoch("operator-b")
        assert epoch == EPOCH + 1
        going = await ledger.load(first.run.uid)
        assert going is not None
        paused = Commit(
            run=replace(
                going.run, phase=Phase.PAUSED, stop=Reason.TIMEOUT, deadline_at=at(9), paused_at=at(5)
            ),
            tasks=(
                replace(
                    going.tasks[KEY],
                    phase=Phase.PAUSED,
                    last_failure={"attempt": 1, "reason": "Timeout", "message": "", "exitCode": None},
                    cache_key="k",
                    cache_until=at(7),
                ),
            ),
            attempts=(replace(going.attempts[KEY], stopping=Reason.PAUSED),),
        )
        await ledger.commit(paused, epoch=epoch)
        live = {state.run.name: state for state in await load_live(ledger)}
        assert live["first"].run == replace(paused.run, version=2)
        assert list(live["first"].tasks.values()) == list(paused.tasks)
        assert list(live["first"].attempts.values()) == list(paused.attempts)
        assert live["second"] == states["second"]
        assert await ledger.expired(at(10**6), limit=9) == await ledger.expired(at(2), limit=9)


async def test_old_code_goes_on_working_with_the_new_schema(old: Any, old_url: str) -> None:
    before = live_run("before")
    await old_commit(old, before)
    # Prepared while the schema was old, as by code that is running.
    for name, arguments in (("runs_live", ()), ("attempt_for_pod", ("team-a", "pod-before"))):
        assert len(await old.fetch(OLD[name], *arguments)) == 1
    await migrate(old_url)

    # The driver prepares it again by itself, but within a transaction: once.
    with pytest.raises(asyncpg.InvalidCachedStatementError):
        async with old.transaction():
            await old.fetch(OLD["runs_live"])
    async with old.transaction():
        assert [row["name"] for row in await old.fetch(OLD["runs_live"])] == ["before"]
    assert (await old.fetchrow(OLD["attempt_for_pod"], "team-a", "pod-before"))["open"]
    run = replace(before.run, version=1)
    assert (await old_commit(old, replace(before, run=run)))["version"] == 2
    after = live_run("after")
    assert (await old_commit(old, after))["version"] == 1
    for made in (before, after):
        assert (await old_checkpoint(old, made.run, 1, None))["sequence"] == 1
        place = made.run.uid, KEY.step, KEY.index, 1
        assert (await old.fetchrow(OLD["heartbeat"], *place, at(2)))["written"]
        report, _ = rows.report_arguments(samples.success())
        assert (await old.fetchrow(OLD["report"], *place, report))["written"]

    async with Ledger(old_url) as ledger:
        assert {state.run.name for state in await load_live(ledger)} == {"before", "after"}
        loaded = await ledger.load(after.run.uid)
        assert loaded is not None
        new = Commit(
            run=replace(loaded.run, phase=Phase.PAUSED, deadline_at=at(9), paused_at=at(5)),
            tasks=(replace(loaded.tasks[KEY], cache_key="k", last_failure={"attempt": 1}),),
            attempts=(replace(loaded.attempts[KEY], stopping=Reason.PAUSED),),
        )
        await ledger.commit(new, epoch=EPOCH)
        # What old code does not know, it neither shows nor loses.
        assert [row["name"] for row in await old.fetch(OLD["runs_live"])] == ["before"]
        assert await old.fetch(OLD["expired"], at(10**6), 9) == []
        again = replace(new, run=replace(new.run, phase=Phase.RUNNING, version=3))
        assert (await old_commit(old, again))["version"] == 4
        kept = await ledger.load(after.run.uid)
        assert kept is not None
        assert (kept.run.deadline_at, kept.run.paused_at) == (at(9), at(5))
        assert kept.tasks[KEY].last_failure == {"attempt": 1}
        assert kept.tasks[KEY].cache_key == "k"
        assert kept.attempts[KEY].stopping is Reason.PAUSED


async def test_old_code_clears_away_what_it_cannot_read(old: Any, old_url: str) -> None:
    """Checkpoints in pieces go with all their pieces when code deletes them that knows of no pieces."""
    run = live_run("before")
    await old_commit(old, run)
    await migrate(old_url)
    async with Ledger(old_url) as ledger:
        session = await ledger.attempt_for_pod("team-a", "pod-before")
        assert session is not None
        data = bytes(2_000_000)
        assert await ledger.write_checkpoint(session, data, content_type="text/plain", now=at(1)) == 1
        assert await old.fetchval("select count(*) from perdure.checkpoint_piece") == 4
        for number in range(2, 12):
            assert (await old_checkpoint(old, run.run, number, None))["sequence"] == number
        assert await old.fetchval("select count(*) from perdure.checkpoint_piece") == 0


async def test_old_code_neither_reads_nor_loses_signals(old: Any, old_url: str) -> None:
    before = live_run("before")
    await old_commit(old, before)
    await migrate(old_url)
    async with Ledger(old_url) as ledger:
        uid = before.run.uid
        assert await ledger.send_signal(uid, samples.signal("one"))
        stale = replace(before, run=replace(before.run, version=1))
        assert (await old_commit(old, stale))["version"] is None
        assert (await old_commit(old, replace(before, run=replace(before.run, version=2))))["version"] == 3
        updates = await ledger.updates(uid, since=None)
        assert (updates.version, updates.signals) == (3, {KEY: (samples.signal("one"),)})
        # Its statement deletes the run's row alone.
        await old.execute("delete from perdure.workflow")
        assert await old.fetchval("select count(*) from perdure.signal") == 0


async def test_new_code_waits_for_the_new_schema(old: Any, old_url: str) -> None:
    before = live_run("before")
    await old_commit(old, before)
    async with Ledger(old_url) as ledger:
        changed = Commit(run=replace(before.run, version=1, message="changed"))
        with pytest.raises(LedgerUnavailable, match=r"lacks 0002_.*run `perdure migrate`"):
            await ledger.ready()
        for call in (
            lambda: load_live(ledger),
            lambda: ledger.load(before.run.uid),
            lambda: ledger.commit(changed, epoch=EPOCH),
            lambda: ledger.attempt_for_pod("team-a", "pod-before"),
            lambda: ledger.outcomes([before.run.uid]),
            lambda: ledger.cached("team-a", ["k"], START),
            lambda: ledger.forget_cache(START, limit=9, epoch=EPOCH),
            lambda: ledger.updates(before.run.uid, since=None),
            lambda: ledger.send_signal(before.run.uid, samples.signal("one")),
        ):
            with pytest.raises(LedgerUnavailable, match="run `perdure migrate`"):
                await call()
        await migrate(old_url)
        # Nothing was written, and no process has to be restarted.
        assert await load_live(ledger) == [state_of(before)]
        assert (await ledger.commit(changed, epoch=EPOCH)).version == 2
        assert await ledger.attempt_for_pod("team-a", "pod-before") is not None


async def test_no_table_is_rewritten(old: Any, old_url: str) -> None:
    files = (
        "select relname, pg_relation_filenode(c.oid) from pg_class c"
        " where relnamespace = 'perdure'::regnamespace and relkind = 'r' order by 1"
    )
    before = dict(await old.fetch(files))
    await migrate(old_url)
    assert before.items() <= dict(await old.fetch(files)).items()


async def test_each_migration_locks_one_table(old: Any) -> None:
    """A reader that joins several could otherwise hold one that the migration wants, and wait for another."""
    found = await old.fetch(
        "select oid from pg_class where relnamespace = 'perdure'::regnamespace and relkind = 'r'"
    )
    tables = {row["oid"] for row in found}
    for migration in migrations()[1:]:
        async with old.transaction():
            await old.execute(migration.sql)
            locked = await old.fetch(
                "select distinct relation from pg_locks where pid = pg_backend_pid() and relation is not null"
                " and mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')"
            )
        assert len(tables & {row["relation"] for row in locked}) <= 1, migration.name


async def test_a_migration_that_waits_lets_others_through(
    old: Any, old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_commit(old, live_run("before"))
    module = sys.modules[apply.__module__]
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(module, "_PAUSE", 0.05)
    reader = await connect(old_url, timeout=20)
    try:
        # A backup, say.
        backup = reader.transaction()
        await backup.start()
        await reader.execute("lock table perdure.task in access share mode")
        migrating = asyncio.create_task(migrate(old_url))

        async def waits() -> bool:
            return bool(await reader.fetchval("select count(*) from pg_locks where not granted"))

        for _ in range(3):
            await until(waits)
            assert await old.fetchval("select count(*) from perdure.task") == 1
        assert not migrating.done()
        await backup.commit()
        assert await migrating == [migration.name for migration in migrations()[1:]]
    finally:
        reader.terminate()


async def test_live_and_expired_runs_are_found_by_their_indexes(ledger_url: str) -> None:
    connection = await connect(ledger_url, timeout=20)
    try:
        await connection.execute("set enable_seqscan = off")

        async def plan(name: str, *arguments: Any) -> str:
            return "\n".join(row[0] for row in await connection.fetch("explain " + SQL[name], *arguments))

        live = await plan("live_index")
        assert "workflow_live" in live
        assert "workflow_paused" in live
        assert "workflow_expiry" in await plan("expired", START, 9)
        assert "cache_expiry" in await plan("forget_cache", START, 9, EPOCH)
        assert "cache_pkey" in await plan("cached", "team-a", ["k"], START)
    finally:
        connection.terminate()
