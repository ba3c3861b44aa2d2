"""Ledger and cluster that do not know the same of a run, because one of them was restored or was faster."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass
from typing import Any

import pytest

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import RunRecord
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.clock import run
from tests.fakes.model import RunModel
from tests.fakes.world import World, eventually

AGENT = {"image": "agent"}
CHAIN = {
    "steps": [{"name": "first", "agent": AGENT}, {"name": "second", "agent": AGENT, "dependsOn": ["first"]}]
}


async def begun(at: World) -> str:
    """A run whose first agent works. Returns its uid."""
    at.behaviour.work = (30.0, 30.0)
    uid = at.apply("chain", CHAIN)
    await eventually(lambda: any(attempt.pod_uid for attempt in at.attempts(uid).values()))
    return uid


@dataclass(frozen=True, slots=True)
class Backup:
    """What `pg_dump` takes: one consistent snapshot."""

    ledger: Any
    #: What the guarantees know was written, up to the same moment.
    models: dict[str, RunModel]
    epoch: int


TABLES = ("epoch", "rows", "cache", "outbox", "_by_pod")


def back_up(at: World) -> Backup:
    tables = {name: copy.deepcopy(getattr(at.ledger, name)) for name in TABLES}
    models = {uid: model.copy() for uid, model in at.guarantees.runs.items()}
    return Backup(tables, models, at.guarantees.epoch)


def restore(at: World, backup: Backup) -> None:
    for name, content in backup.ledger.items():
        setattr(at.ledger, name, content)
    at.guarantees.runs, at.guarantees.epoch = backup.models, backup.epoch


def deleted(ended: RunRecord) -> bool:
    return (ended.phase, ended.reason) == (Phase.CANCELLED, Reason.DELETED)


def test_a_run_deleted_while_its_agent_reports_is_cancelled() -> None:
    """The report changes the run's version under a decision that knows nothing of it."""

    async def scenario() -> None:
        at = World(1)
        at.start_operator()
        uid = await begun(at)
        at.ledger.fence_commits(uid, epoch=at.ledger.epoch)
        at.api.remove("Workflow", NAMESPACE, "chain")
        (ended,) = await at.until_ended([uid], seconds=30)
        assert deleted(ended)
        await at.close()

    run(scenario())


def test_a_ledger_restored_into_an_empty_cluster() -> None:
    """Its live runs end, and what is applied again is a new run."""

    async def scenario() -> None:
        at = World(2)
        at.start_operator()
        uid = await begun(at)
        await at.kill_operator()
        dump = back_up(at)
        at.api.remove("Workflow", NAMESPACE, "chain")
        await eventually(lambda: not at.api.all("Pod"))
        restore(at, dump)
        again = at.apply("chain", CHAIN)
        assert again != uid
        at.start_operator()
        old, new = await at.until_ended([uid, again])
        assert deleted(old)
        assert new.phase is Phase.SUCCEEDED
        types = [event.type for event in at.events(uid)]
        assert types[-1] == "workflow.cancelled"
        assert "task.cancelled" in types
        await eventually(lambda: at.status_written("chain"))
        await at.close()

    run(scenario())


def test_a_ledger_older_than_its_cluster_begins_nothing_that_has_ended() -> None:
    async def scenario() -> None:
        at = World(3)
        at.start_operator()
        uid = await begun(at)
        dump = back_up(at)
        await at.until_ended([uid])
        await eventually(lambda: at.status_written("chain"))
        await at.kill_operator()
        shown, pods = at.status("chain"), len(at.api.all("Pod"))
        restore(at, dump)
        assert not at.record(uid).phase.terminal
        at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert deleted(ended)
        assert at.status("chain") == shown, "the status of the ended run stays"
        assert len(at.api.all("Pod")) == pods
        await at.close()

    run(scenario())


def test_a_ledger_older_than_its_cluster_goes_on_with_what_runs() -> None:
    """The create of an attempt that the restored ledger lacks meets the pod of that attempt."""

    async def scenario() -> None:
        # Reports through the gateway would be lost with the ledger that has them.
        at = World(4)
        at.behaviour.reports = False
        at.start_operator()
        uid = await begun(at)
        dump = back_up(at)
        await eventually(lambda: any(key.step == "second" for key, _ in at.attempts(uid)))
        await at.kill_operator()
        restore(at, dump)
        at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await eventually(lambda: at.status_written("chain"))
        at.check([uid])
        await at.close()

    run(scenario())


@pytest.mark.parametrize("agent", [AGENT, {**AGENT, "executor": "Job"}], ids=["pod", "job"])
@pytest.mark.parametrize("ended", [False, True], ids=["runs", "ended"])
def test_an_empty_ledger_adopts_the_pods_that_are_there(ended: bool, agent: dict[str, str]) -> None:
    """No event follows a pod that ended before the first pass: its exit and message count at once."""

    async def scenario() -> None:
        at = World(5)
        at.behaviour.reports = False
        empty = back_up(at)
        at.start_operator()
        at.behaviour.work = (30.0, 30.0)
        uid = at.apply("one", {"steps": [{"name": "first", "agent": agent}]})
        await eventually(lambda: bool(at.nodes.running()))
        await at.kill_operator()
        restore(at, empty)
        if ended:
            await eventually(lambda: not at.nodes.running())
            await asyncio.sleep(2)
        at.start_operator()
        (run_,) = await at.until_ended([uid], seconds=4 if ended else 120)
        assert run_.phase is Phase.SUCCEEDED
        assert len(at.guarantees.truths) == 1, "the pod was adopted, and no other was created"
        await at.close()

    run(scenario())
