"""Results that other tasks may use again: whose are kept, which one is found, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from perdure.domain.payloads import payload_of, value_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, Commit, Deposed, TaskKey, TaskRecord, VersionConflict
from perdure.ledger import Ledger, rows
from perdure.ledger.queries import SQL
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, at, task_record
from tests.support.waiting import until


def succeeded(key: TaskKey = KEY, *, cache_key: str | None = "k", **changes: Any) -> TaskRecord:
    """A task that left a result at 10 s, which holds until 100 s."""
    fields = {
        "phase": Phase.SUCCEEDED,
        "output": {"n": 1},
        "finished_at": at(10),
        "cache_until": at(100),
        **changes,
    }
    return task_record(key, cache_key=cache_key, **fields)


async def commit(ledger: Ledger, epoch: int, *tasks: TaskRecord, **run: Any) -> str:
    """A new run with these tasks; returns its uid."""
    record = samples.run_record(**run)
    await ledger.commit(Commit(run=record, tasks=tasks), epoch=epoch)
    return record.uid


async def count(ledger: Ledger) -> int:
    row = await ledger.database.fetchrow("select count(*) as n from perdure.cache")
    return int(row["n"])


async def test_a_result_is_found_until_its_time_is_over(ledger: Ledger, epoch: int) -> None:
    await commit(ledger, epoch, succeeded(name="audit-work-abcde"))
    expected = {"k": CachedResult(output=payload_of({"n": 1}), workflow="audit", task="audit-work-abcde")}
    assert await ledger.cached("team-a", ["k"], at(10)) == expected
    assert await ledger.cached("team-a", ["other", "k", "k"], at(99.999)) == expected
    assert await ledger.cached("team-a", ["k"], at(100)) == {}
    assert await ledger.cached("team-a", ["other"], at(10)) == {}
    assert await ledger.cached("team-a", [], at(10)) == {}


@pytest.mark.parametrize("output", [None, 0, False, "", [], {"zeta": 1, "alpha": [1.0, "\u2028"]}])
async def test_any_output_comes_back(ledger: Ledger, epoch: int, output: Any) -> None:
    await commit(ledger, epoch, succeeded(output=output))
    found = await ledger.cached("team-a", ["k"], at(10))
    assert repr(value_of(found["k"].output)) == repr(output)


async def test_namespaces_are_apart(ledger: Ledger, epoch: int) -> None:
    await commit(ledger, epoch, succeeded(output="a"))
    await commit(ledger, epoch, succeeded(output="b"), namespace="team-b")
    assert value_of((await ledger.cached("team-a", ["k"], at(10)))["k"].output) == "a"
    assert value_of((await ledger.cached("team-b", ["k"], at(10)))["k"].output) == "b"
    assert await ledger.cached("team-c", ["k"], at(10)) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_key": None},
        {"reason": Reason.CACHED},
        {"cache_until": None},
        *({"phase": phase} for phase in Phase if phase is not Phase.SUCCEEDED),
    ],
    ids=str,
)
async def test_nothing_else_is_kept(ledger: Ledger, epoch: int, changes: dict[str, Any]) -> None:
    await commit(ledger, epoch, succeeded(**changes))
    assert await count(ledger) == 0
    # Nor does it when a neighbour leaves one.
    other = succeeded(TaskKey("other"), cache_key="other")
    await commit(ledger, epoch, succeeded(**changes), other)
    assert set(await ledger.cached("team-a", ["k", "other"], at(10))) == {"other"}


async def test_a_task_that_used_a_result_does_not_make_it_younger(ledger: Ledger, epoch: int) -> None:
    await commit(ledger, epoch, succeeded(name="first"))
    await commit(
        ledger,
        epoch,
        succeeded(name="second", reason=Reason.CACHED, finished_at=at(50), cache_until=at(150)),
    )
    assert (await ledger.cached("team-a", ["k"], at(99)))["k"].task == "first"
    assert await ledger.cached("team-a", ["k"], at(100)) == {}


async def test_a_newer_result_replaces_an_older_one(ledger: Ledger, epoch: int) -> None:
    old, new = succeeded(output="old"), succeeded(output="new", finished_at=at(20), cache_until=at(30))
    await commit(ledger, epoch, old)
    uid = await commit(ledger, epoch, new, name="nightly")
    expected = CachedResult(output=payload_of("new"), workflow="nightly", task=new.name)
    assert await ledger.cached("team-a", ["k"], at(29)) == {"k": expected}
    assert await ledger.cached("team-a", ["k"], at(30)) == {}, "its own time counts, if shorter"
    await commit(ledger, epoch, old)
    assert await ledger.cached("team-a", ["k"], at(29)) == {"k": expected}, "the same the other way round"
    row = await ledger.database.fetchrow("select workflow_uid, created_at from perdure.cache")
    assert (str(row["workflow_uid"]), row["created_at"]) == (uid, at(20))


@pytest.mark.parametrize("backwards", [False, True])
async def test_equal_keys_in_one_commit(ledger: Ledger, epoch: int, backwards: bool) -> None:
    tasks = [
        succeeded(TaskKey("each", index), output=index, finished_at=at(seconds), cache_key=key)
        for index, (key, seconds) in enumerate([("k", 10), ("l", 30), ("k", 20), ("k", 20), ("l", 5)])
    ]
    await commit(ledger, epoch, *(reversed(tasks) if backwards else tasks))
    found = await ledger.cached("team-a", ["k", "l"], at(30))
    # The newest; of two that ended together, the first by step and index.
    assert {key: value_of(result.output) for key, result in found.items()} == {"k": 2, "l": 1}


async def test_equal_keys_in_one_batch(ledger: Ledger, epoch: int) -> None:
    results = [succeeded(output=number, finished_at=at(number)) for number in range(20)]
    await asyncio.gather(*(commit(ledger, epoch, task) for task in results))
    assert value_of((await ledger.cached("team-a", ["k"], at(30)))["k"].output) == 19
    assert await count(ledger) == 1


async def test_what_was_refused_leaves_no_result(ledger: Ledger, epoch: int) -> None:
    run = samples.run_record()
    await ledger.commit(Commit(run=run), epoch=epoch)
    with pytest.raises(VersionConflict):
        await ledger.commit(Commit(run=run, tasks=(succeeded(),)), epoch=epoch)
    with pytest.raises(VersionConflict):
        await ledger.commit(Commit(run=replace(run, version=7), tasks=(succeeded(),)), epoch=epoch)
    await ledger.take_epoch("operator-b")
    with pytest.raises(Deposed):
        await commit(ledger, epoch, succeeded())
    assert await count(ledger) == 0


async def test_a_result_outlives_its_run(ledger: Ledger, epoch: int) -> None:
    uid = await commit(ledger, epoch, succeeded(), phase=Phase.SUCCEEDED, expires_at=at(11))
    await ledger.forget([uid], epoch=epoch)
    assert await ledger.load(uid) is None
    assert set(await ledger.cached("team-a", ["k"], at(12))) == {"k"}


async def test_old_results_are_forgotten(ledger: Ledger, epoch: int) -> None:
    tasks = [
        succeeded(TaskKey("each", number), cache_key=str(number), cache_until=at(100 + number))
        for number in range(6)
    ]
    await commit(ledger, epoch, *tasks)
    assert await ledger.forget_cache(at(99), limit=10, epoch=epoch) == 0
    assert await ledger.forget_cache(at(103), limit=3, epoch=epoch) == 3
    left = await ledger.cached("team-a", [str(number) for number in range(6)], at(0))
    assert sorted(left) == ["3", "4", "5"], "the oldest go first"
    assert await ledger.forget_cache(at(103), limit=3, epoch=epoch) == 1
    assert await count(ledger) == 2


async def test_forgetting_passes_over_a_result_that_is_being_renewed(ledger: Ledger, epoch: int) -> None:
    await commit(ledger, epoch, succeeded(), succeeded(TaskKey("other"), cache_key="other"))
    renewed = succeeded(output="new", finished_at=at(200), cache_until=at(300))
    operator = await ledger.database.connect()
    try:
        transaction = operator.transaction()
        await transaction.start()
        arguments = rows.commit_arguments(Commit(run=samples.run_record(), tasks=(renewed,)), epoch)
        await operator.fetchrow(SQL["commit_extras"], *arguments)
        assert await asyncio.wait_for(ledger.forget_cache(at(200), limit=9, epoch=epoch), 20) == 1
        await transaction.commit()
    finally:
        operator.terminate()
    assert value_of((await ledger.cached("team-a", ["k", "other"], at(200)))["k"].output) == "new"
    assert await count(ledger) == 1


async def test_a_commit_waits_for_what_is_being_forgotten(ledger: Ledger, epoch: int) -> None:
    await commit(ledger, epoch, succeeded())
    janitor = await ledger.database.connect()
    try:
        transaction = janitor.transaction()
        await transaction.start()
        row = await janitor.fetchrow(SQL["forget_cache"], at(100), 9, epoch)
        assert row["gone"] == 1
        renewed = succeeded(output="new", finished_at=at(200), cache_until=at(300))
        late = asyncio.create_task(commit(ledger, epoch, renewed))

        async def waits() -> bool:
            found = await ledger.database.fetchrow("select count(*) as n from pg_locks where not granted")
            return bool(found["n"])

        await until(waits)
        await transaction.commit()
        await late
    finally:
        janitor.terminate()
    assert value_of((await ledger.cached("team-a", ["k"], at(200)))["k"].output) == "new"
