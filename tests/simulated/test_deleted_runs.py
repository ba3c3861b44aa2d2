"""Runs whose objects are deleted, held, orphaned, or given statuses by others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.domain.names import LABEL_MANAGED_BY
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey
from tests.fakes.apiserver import NAMESPACE, Object
from tests.fakes.clock import run
from tests.fakes.world import World, eventually

AGENT = {"image": "agent"}
JOB = {"image": "agent", "executor": "Job"}
CHAIN = {
    "steps": [{"name": "work", "agent": AGENT}, {"name": "after", "agent": AGENT, "dependsOn": ["work"]}],
    "finally": [{"name": "clean", "agent": AGENT}],
}
PARENT = {"steps": [{"name": "sub", "workflow": {"spec": {"steps": [{"name": "work", "agent": AGENT}]}}}]}


async def begun(at: World, spec: dict[str, Any], *, kind: str = "Workflow") -> str:
    """A run whose first agent works for a long time. Returns its uid."""
    at.behaviour.work = (500.0, 500.0)
    at.nodes.grace = 1.0
    uid = at.apply("held", spec, kind=kind)
    await eventually(lambda: bool(at.nodes.running()))
    await asyncio.sleep(2)
    return uid


def deleted(at: World, uid: str) -> bool:
    ended = at.record(uid)
    return (ended.phase, ended.reason) == (Phase.CANCELLED, Reason.DELETED)


@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Workflow", CHAIN),
        ("Workflow", {"steps": [{"name": "work", "agent": JOB}]}),
        ("Workflow", PARENT),
        ("AgentTask", {"agent": AGENT}),
    ],
)
def test_a_deletion_that_a_finalizer_holds_stops_everything(
    kind: str, spec: dict[str, Any], restart: bool
) -> None:
    async def scenario() -> None:
        at = World(1)
        at.start_operator()
        uid = await begun(at, spec, kind=kind)
        if restart:
            await at.kill_operator()
        at.api.hold(kind, NAMESPACE, "held")
        if restart:
            at.start_operator()
        await eventually(lambda: deleted(at, uid), seconds=5)
        await eventually(lambda: not at.pods(), seconds=10)
        made = len(at.guarantees.truths)
        await asyncio.sleep(120)
        assert len(at.guarantees.truths) == made, "nothing more is created, no finally step either"
        assert (at.status("held", kind=kind)["phase"], at.find(kind, "held") is not None) == (
            "Cancelled",
            True,
        )
        assert all(record.run.phase.terminal for record in at.ledger.rows.values())
        at.api.remove(kind, NAMESPACE, "held")
        await eventually(lambda: not at.api.all("AgentTask") and not at.api.all("Pod"))
        await at.close()

    run(scenario())


def test_an_object_that_is_being_deleted_is_never_accepted() -> None:
    async def scenario() -> None:
        at = World(2)
        uid = at.apply("held", CHAIN)
        at.api.hold("Workflow", NAMESPACE, "held")
        at.start_operator()
        await asyncio.sleep(90)
        assert uid not in at.ledger.rows and not at.guarantees.truths
        await at.close()

    run(scenario())


@pytest.mark.parametrize("away", [False, True], ids=["", "operator away"])
@pytest.mark.parametrize("spec", [CHAIN, PARENT])
def test_an_orphaning_deletion_stops_everything(spec: dict[str, Any], away: bool) -> None:
    async def scenario() -> None:
        at = World(3)
        at.start_operator()
        uid = await begun(at, spec)
        if away:
            await at.kill_operator()
        at.api.orphan("Workflow", NAMESPACE, "held")
        await asyncio.sleep(2)
        await at.kill_operator()
        at.start_operator()
        await eventually(lambda: deleted(at, uid))
        await eventually(lambda: not at.pods())
        made = len(at.guarantees.truths)
        await asyncio.sleep(120)
        assert len(at.guarantees.truths) == made
        assert all(record.run.phase.terminal for record in at.ledger.rows.values())
        assert {record.run.kind for record in at.ledger.rows.values()} == {"Workflow"}, "no task is a run"
        assert all(
            task["status"]["phase"] in ("Cancelled", "Succeeded") for task in at.api.all("AgentTask")
        ), "no AgentTask says that it runs"
        await at.close()

    run(scenario())


@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
def test_a_refused_deletion_of_what_was_orphaned_is_repeated(restart: bool) -> None:
    async def scenario() -> None:
        at = World(10)
        at.start_operator()
        uid = await begun(at, CHAIN)
        at.api.undeletable.add(NAMESPACE)
        at.api.orphan("Workflow", NAMESPACE, "held")
        await eventually(lambda: deleted(at, uid))
        if restart:
            await at.kill_operator()
            at.start_operator()
        await asyncio.sleep(30)
        assert len(at.pods()) == 1
        at.api.undeletable.clear()
        await eventually(lambda: not at.pods(), seconds=60)
        await at.close()

    run(scenario())


def test_a_task_of_a_live_run_may_lose_its_owner() -> None:
    async def scenario() -> None:
        at = World(4)
        at.behaviour.work = (20.0, 20.0)
        at.start_operator()
        uid = at.apply("held", CHAIN)
        await eventually(lambda: bool(at.nodes.running()))
        (task,) = at.api.all("AgentTask")
        at.api.relabel(task, "AgentTask", {}, ownerReferences=[])
        await at.kill_operator()
        at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, list(at.ledger.rows)) == (Phase.SUCCEEDED, [uid])
        at.check([uid])
        await at.close()

    run(scenario())


def test_a_copy_of_a_task_under_another_name_is_a_run() -> None:
    async def scenario() -> None:
        at = World(5)
        at.start_operator()
        uid = at.apply("held", CHAIN)
        await at.until_ended([uid])
        task = at.api.all("AgentTask")[0]
        assert task["metadata"]["labels"][LABEL_MANAGED_BY] == "perdure"
        body = {**task, "metadata": {"name": "copy", "labels": task["metadata"]["labels"]}, "status": {}}
        copy = at.api.create("AgentTask", NAMESPACE, body)["metadata"]["uid"]
        (ended,) = await at.until_ended([copy])
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


# --- statuses that others write

CHANGES: dict[str, Any] = {
    "emptied": lambda status: {},
    "succeeded": lambda status: {**status, "phase": "Succeeded"},
    "succeeded in whole": lambda status: {
        **status,
        "phase": "Succeeded",
        "conditions": [{"type": "Complete", "status": "True", "reason": "Succeeded"}],
    },
    "another generation": lambda status: {**status, "observedGeneration": 99},
    "a field of its own": lambda status: {**status, "message": "mine"},
    "fewer fields": lambda status: {"phase": status["phase"]},
}


def restated(before: Object, after: Object) -> bool:
    """Whether a status says again what it said."""

    def said(status: Object) -> Object:
        conditions = [{**item, "lastTransitionTime": ""} for item in status.get("conditions", ())]
        return {**status, "conditions": conditions}

    return said(before) == said(after)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["Workflow", "AgentTask"])
def test_a_status_that_another_wrote_is_written_again(kind: str, change: str) -> None:
    async def scenario() -> None:
        at = World(6)
        at.behaviour.reports = False
        at.behaviour.work = (60.0, 60.0)
        at.start_operator()
        uid = at.apply("held", CHAIN)
        await eventually(lambda: bool(at.nodes.running()))
        await asyncio.sleep(5)
        (obj,) = at.api.all(kind)
        name = obj["metadata"]["name"]
        before = at.status(name, kind=kind)
        assert before["phase"] == "Running"
        at.api.change(obj, kind, status=CHANGES[change](before))
        await eventually(lambda: restated(before, at.status(name, kind=kind)), seconds=10)
        assert at.record(uid).phase is Phase.RUNNING
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, len(at.attempts(uid))) == (Phase.SUCCEEDED, 3)
        await eventually(lambda: at.status_written("held"))
        await at.close()

    run(scenario())


@pytest.mark.parametrize("change", [*CHANGES, "failed"])
def test_the_status_of_an_ended_run_is_written_again(change: str) -> None:
    async def scenario() -> None:
        at = World(7)
        at.start_operator()
        uid = at.apply("held", CHAIN)
        await at.until_ended([uid])
        await eventually(lambda: at.status_written("held"))
        await asyncio.sleep(5)
        obj = at.find("Workflow", "held")
        assert obj is not None
        before = at.status("held")
        failed = {**before, "phase": "Failed", "conditions": [{"type": "Failed", "status": "True"}]}
        changed = failed if change == "failed" else CHANGES[change](before)
        at.api.change(obj, "Workflow", status=changed)
        await eventually(lambda: restated(before, at.status("held")), seconds=60)
        assert len(at.attempts(uid)) == 3
        await at.close()

    run(scenario())


@pytest.mark.parametrize("away", [False, True], ids=["", "operator away"])
@pytest.mark.parametrize("state", ["Cancelled", "Paused"])
def test_a_generation_after_the_end_is_acknowledged(state: str, away: bool) -> None:
    async def scenario() -> None:
        at = World(8)
        at.start_operator()
        uid = at.apply("held", CHAIN)
        await at.until_ended([uid])
        await eventually(lambda: at.status_written("held"))
        before = at.status("held")
        if away:
            await at.kill_operator()
        at.desire("held", state)
        if away:
            at.start_operator()
        await eventually(lambda: at.status("held")["observedGeneration"] == 2, seconds=5)
        after = at.status("held")
        assert {item["observedGeneration"] for item in after["conditions"]} == {2}
        assert (after["phase"], after["finishedAt"]) == ("Succeeded", before["finishedAt"])
        assert at.record(uid).phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


def test_a_new_operator_keeps_the_times_of_conditions() -> None:
    async def scenario() -> None:
        at = World(9)
        at.start_operator()
        uid = await begun(at, CHAIN)
        (task,) = at.api.all("AgentTask")
        name = task["metadata"]["name"]
        times = {item["type"]: item["lastTransitionTime"] for item in task["status"]["conditions"]}
        await asyncio.sleep(60)
        await at.kill_operator()
        at.start_operator()
        await asyncio.sleep(5)
        at.desire("held", "Paused")
        await eventually(lambda: at.tasks(uid)[TaskKey("work")].phase is Phase.PAUSED)
        await eventually(lambda: at.status(name, kind="AgentTask")["phase"] == "Paused")
        after = at.status(name, kind="AgentTask")["conditions"]
        assert {item["type"]: item["lastTransitionTime"] for item in after} == times
        await at.close()

    run(scenario())
