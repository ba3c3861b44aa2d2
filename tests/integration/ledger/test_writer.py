"""Group commit: shared transactions, separate fates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from perdure.domain.records import Commit, LedgerUnavailable, TaskKey
from perdure.ledger import Ledger
from perdure.ledger.group_commit import GroupWriter
from tests.integration.ledger import samples
from tests.integration.ledger.samples import START, event
from tests.support.waiting import until

#: Refuses 13, as Postgres would refuse a value that is too long or not allowed.
INSERT = "insert into item values ($1, $2, txid_current()) returning value, transaction"


@pytest.fixture
async def ledger_with_items(ledger: Ledger) -> Ledger:
    await ledger.database.fetch(
        "create table item (owner text, value int check (value <> 13), transaction bigint)"
    )
    return ledger


@pytest.fixture
async def writer(ledger_with_items: Ledger) -> AsyncIterator[GroupWriter]:
    opened = GroupWriter(ledger_with_items.database.connect)
    yield opened
    await opened.close(timeout=5)


def submit(writer: GroupWriter, value: int, *, owner: str = "a", size: int = 0) -> asyncio.Task[Any]:
    return asyncio.create_task(writer.submit(INSERT, (owner, value), order=(0, owner), size=size))


async def values(ledger: Ledger) -> list[int]:
    return [row["value"] for row in await ledger.database.fetch("select value from item")]


async def test_what_comes_together_is_one_transaction(ledger: Ledger, writer: GroupWriter) -> None:
    rows = await asyncio.gather(*(submit(writer, value) for value in range(12)))
    assert [row["value"] for row in rows] == list(range(12))
    assert len({row["transaction"] for row in rows}) == 1


async def test_batches_are_bounded(ledger: Ledger, writer: GroupWriter) -> None:
    rows = await asyncio.gather(*(submit(writer, 0, size=3 * 1024 * 1024) for _ in range(3)))
    assert len({row["transaction"] for row in rows}) == 3


async def test_a_poisoned_item_fails_alone(ledger: Ledger, writer: GroupWriter) -> None:
    results = await asyncio.gather(
        *(submit(writer, value) for value in range(11, 16)), return_exceptions=True
    )
    failed = [result for result in results if isinstance(result, BaseException)]
    assert [type(error) for error in failed] == [asyncpg.CheckViolationError]
    assert isinstance(results[2], asyncpg.CheckViolationError)
    assert await values(ledger) == [11, 12, 14, 15]


async def test_an_argument_of_the_wrong_type_fails_alone(ledger: Ledger, writer: GroupWriter) -> None:
    odd = asyncio.create_task(writer.submit(INSERT, ("a", "no number"), order=(0, "a")))
    results = await asyncio.gather(submit(writer, 1), odd, submit(writer, 2), return_exceptions=True)
    assert isinstance(results[1], asyncpg.DataError)
    assert await values(ledger) == [1, 2]


async def test_runs_are_sorted_and_keep_their_own_order(ledger: Ledger, writer: GroupWriter) -> None:
    owners = ["c", "a", "b"]
    await asyncio.gather(*(submit(writer, value, owner=owners[value % 3]) for value in range(12)))
    rows = await ledger.database.fetch("select owner, value from item")
    assert [(row["owner"], row["value"]) for row in rows] == [
        (owner, value) for owner, first in (("a", 1), ("b", 2), ("c", 0)) for value in range(first, 12, 3)
    ]


async def test_a_cancelled_caller_does_not_affect_others(ledger: Ledger, writer: GroupWriter) -> None:
    await submit(writer, 0)
    blocker = await ledger.database.connect()
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("lock table item in exclusive mode")
        sent = [submit(writer, value) for value in (1, 2, 3)]

        async def waits() -> bool:
            row = await ledger.database.fetchrow("select count(*) as n from pg_locks where not granted")
            return bool(row["n"])

        await until(waits)
        unsent = [submit(writer, value) for value in (4, 5)]
        await asyncio.sleep(0)
        sent[1].cancel()
        unsent[0].cancel()
        await transaction.rollback()
    finally:
        blocker.terminate()
    results = await asyncio.gather(*sent, *unsent, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        False,
        True,
        False,
        True,
        False,
    ]
    # Sent is sent; what was not sent when its caller left never is.
    assert await values(ledger) == [0, 1, 2, 3, 5]


async def test_closing_writes_what_was_submitted(ledger: Ledger, writer: GroupWriter) -> None:
    tasks = [submit(writer, value) for value in range(5)]
    await asyncio.sleep(0)
    await writer.close(timeout=5)
    assert [row["value"] for row in await asyncio.gather(*tasks)] == [0, 1, 2, 3, 4]
    with pytest.raises(LedgerUnavailable):
        await submit(writer, 6)


async def test_closing_does_not_wait_for_ever(ledger: Ledger, writer: GroupWriter) -> None:
    await submit(writer, 0)
    blocker = await ledger.database.connect()
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("lock table item in exclusive mode")
        stuck = submit(writer, 1)
        await asyncio.sleep(0)
        await writer.close(timeout=0.1)
        with pytest.raises(LedgerUnavailable):
            await stuck
    finally:
        blocker.terminate()


async def test_one_bad_commit_among_many(ledger: Ledger, epoch: int) -> None:
    """The same through the ledger: conflicts and refused records leave their neighbours alone."""
    state = await samples.started(ledger, epoch)
    runs = [samples.run_record() for _ in range(6)]
    stale = Commit(run=replace(state.run, version=7))
    # A task that was given no step: the database refuses it.
    bad = Commit(run=runs[5], tasks=(samples.task_record(TaskKey(None)),))  # type: ignore[arg-type]
    results = await asyncio.gather(
        ledger.commit(stale, epoch=epoch),
        *(
            ledger.commit(Commit(run=run, events=(event("workflow.created"),)), epoch=epoch)
            for run in runs[:5]
        ),
        ledger.commit(bad, epoch=epoch),
        return_exceptions=True,
    )
    names = [type(result).__name__ for result in results]
    assert names == ["VersionConflict", *["Committed"] * 5, "NotNullViolationError"]
    assert await ledger.load(runs[5].uid) is None
    for run in runs[:5]:
        assert [entry.time for entry in await ledger.events(run.uid)] == [START]
