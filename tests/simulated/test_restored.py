"""Ledger and cluster that do not know the same of a run, because one of them was restored or was faster."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import RunRecord
from tests.fakes.clock import run
from tests.simulated.chance import Odds
from tests.simulated.world import NAMESPACE, World, settled, world

AGENT = {"image": "agent"}
CHAIN = {
    "steps": [{"name": "first", "agent": AGENT}, {"name": "second", "agent": AGENT, "dependsOn": ["first"]}]
}


async def begun(at: World) -> str:
    """A run whose first agent works. Returns its uid."""
    at.work = (30.0, 30.0)
    uid = at.apply("chain", CHAIN)
    await settled(lambda: any(attempt.pod_uid for attempt in at.ledger.attempts[uid].values()))
    return uid


def backup(at: World) -> dict[str, Any]:
    """What `pg_dump` takes: one consistent look at everything."""
    names = ("epoch", "runs", "steps", "tasks", "attempts", "events", "cache", "vitals")
    return {name: copy.deepcopy(getattr(at.ledger, name)) for name in names}


def restore(at: World, dump: dict[str, Any]) -> None:
    for name, content in dump.items():
        setattr(at.ledger, name, copy.deepcopy(content))


def deleted(ended: RunRecord) -> bool:
    return (ended.phase, ended.reason) == (Phase.CANCELLED, Reason.DELETED)


def test_a_run_deleted_while_its_agent_reports_is_cancelled() -> None:
    """The report changes the run's version under a decision that knows nothing of it."""

    async def scenario() -> None:
        at = world(1)
        at.start_operator()
        uid = await begun(at)
        before = at.ledger.runs[uid]
        at.ledger.runs[uid] = replace(before, version=before.version + 1)
        at.cluster.remove("Workflow", NAMESPACE, "chain")
        (ended,) = await at.until_ended([uid], seconds=30)
        assert deleted(ended)
        await at.close()

    run(scenario())


def test_a_ledger_restored_into_an_empty_cluster() -> None:
    """Its live runs end, and what is applied again is a new run."""

    async def scenario() -> None:
        at = world(2)
        at.start_operator()
        uid = await begun(at)
        await at.kill_operator()
        dump = backup(at)
        at.cluster.remove("Workflow", NAMESPACE, "chain")
        await settled(lambda: not at.cluster.all("Pod"))
        restore(at, dump)
        again = at.apply("chain", CHAIN)
        assert again != uid
        at.start_operator()
        old, new = await at.until_ended([uid, again])
        assert deleted(old)
        assert new.phase is Phase.SUCCEEDED
        types = [event.type for event in at.ledger.events[uid]]
        assert types[-1] == "workflow.cancelled"
        assert "task.cancelled" in types
        await settled(lambda: at.shown("chain"))
        await at.close()

    run(scenario())


def test_a_ledger_older_than_its_cluster_begins_nothing_that_has_ended() -> None:
    async def scenario() -> None:
        at = world(3)
        at.start_operator()
        uid = await begun(at)
        dump = backup(at)
        await at.until_ended([uid])
        await settled(lambda: at.shown("chain"))
        await at.kill_operator()
        shown, pods = at.status("chain"), len(at.cluster.all("Pod"))
        restore(at, dump)
        assert not at.ledger.runs[uid].phase.terminal
        at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert deleted(ended)
        assert at.status("chain") == shown, "what was told of a run's end stays"
        assert len(at.cluster.all("Pod")) == pods
        await at.close()

    run(scenario())


def test_a_ledger_older_than_its_cluster_goes_on_with_what_runs() -> None:
    """The pod of an attempt that the ledger has forgotten is met as the one that it is about to make."""

    async def scenario() -> None:
        # What an agent said through the gateway would be lost with the ledger that it was said to.
        at = world(4, Odds(agent_reports=0.0))
        at.start_operator()
        uid = await begun(at)
        dump = backup(at)
        await settled(lambda: any(key.step == "second" for key, _ in at.ledger.attempts[uid]))
        await at.kill_operator()
        restore(at, dump)
        at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await settled(lambda: at.shown("chain"))
        at.check([uid])
        await at.close()

    run(scenario())
