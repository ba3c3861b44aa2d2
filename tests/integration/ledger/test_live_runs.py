"""Live runs read page by page: one that cannot be read is set aside, and unknown values are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Commit, StepRecord
from perdure.ledger import Ledger
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, at, load_live


@pytest.fixture
async def connection(ledger_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(ledger_url)
    yield opened
    await opened.close()


async def test_the_index_has_live_runs_only_oldest_first(ledger: Ledger, epoch: int) -> None:
    young = await samples.started(ledger, epoch, name="young", created_at=at(9))
    old = await samples.started(ledger, epoch, name="old", created_at=at(1))
    paused = samples.run_record(name="paused", created_at=at(5), phase=Phase.PAUSED, paused_at=at(6))
    ended = samples.run_record(name="ended", phase=Phase.FAILED, finished_at=at(1), expires_at=at(2))
    large = samples.run_record(name="large", created_at=at(7), spec={"inputs": {"x": list(range(100_000))}})
    for run in (paused, ended, large):
        await ledger.commit(Commit(run=run), epoch=epoch)
    index = await ledger.live_index()
    assert [entry.uid for entry in index] == [old.run.uid, paused.uid, large.uid, young.run.uid]
    assert [entry.open for entry in index] == [1, 0, 0, 1]
    assert max(index, key=lambda entry: entry.size).uid == large.uid
    page = await ledger.load_page([young.run.uid, ended.uid, paused.uid])
    assert {state.run.name for state in page.states} == {"young", "paused"}, "a page has live runs only"


async def test_reasons_of_a_newer_version_come_back_as_they_were(
    ledger: Ledger, epoch: int, connection: Any
) -> None:
    state = await samples.started(ledger, epoch)
    uid = state.run.uid
    for table in ("task", "step", "attempt"):
        key = "workflow_uid"
        await connection.execute(f"update perdure.{table} set reason = 'Of{table}' where {key} = $1", uid)
    await connection.execute(
        "update perdure.workflow set reason = 'OfRun', stop = 'Later' where uid = $1", uid
    )
    await connection.execute("update perdure.attempt set stopping = 'Moved' where workflow_uid = $1", uid)
    (loaded,) = await load_live(ledger)
    assert (loaded.run.reason, loaded.run.stop) == ("OfRun", "Later")
    assert (loaded.tasks[KEY].reason, loaded.steps["work"].reason) == ("Oftask", "Ofstep")
    assert (loaded.attempts[KEY].reason, loaded.attempts[KEY].stopping) == ("Ofattempt", "Moved")
    reason = loaded.tasks[KEY].reason
    assert isinstance(reason, Reason)
    assert reason.value == "Oftask"

    await ledger.commit(
        Commit(
            run=loaded.run,
            steps=tuple(loaded.steps.values()),
            tasks=tuple(loaded.tasks.values()),
            attempts=tuple(loaded.attempts.values()),
        ),
        epoch=epoch,
    )
    again = await ledger.load(uid)
    assert again is not None
    assert again == replace(loaded, run=replace(loaded.run, version=again.run.version))


@pytest.mark.parametrize("table", ["workflow", "step", "task"])
async def test_a_run_that_cannot_be_read_keeps_no_other_back(
    ledger: Ledger, epoch: int, connection: Any, table: str
) -> None:
    broken = await samples.started(ledger, epoch, name="broken")
    good = [await samples.started(ledger, epoch, name=f"good-{number}") for number in range(3)]
    await ledger.commit(
        Commit(run=broken.run, steps=(StepRecord(name="other", phase=Phase.PENDING),)), epoch=epoch
    )
    await connection.execute("alter domain perdure.phase drop constraint phase_check")
    column = "uid" if table == "workflow" else "workflow_uid"
    await connection.execute(
        f"update perdure.{table} set phase = 'Dormant' where {column} = $1", broken.run.uid
    )
    page = await ledger.load_page([broken.run.uid, *(state.run.uid for state in good)])
    assert {state.run.name for state in page.states} == {state.run.name for state in good}
    assert page.unreadable.keys() == {broken.run.uid}
    assert "Dormant" in str(page.unreadable[broken.run.uid])
    with pytest.raises(ValueError, match="Dormant"):
        await ledger.load(broken.run.uid)
