"""Runs in a world without faults: what a person would see, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.loop import GAP_SECONDS
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, Wake
from tests.fakes.agents import output_of
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.clock import run
from tests.fakes.faults import Profile
from tests.fakes.world import World, eventually

AGENT = {"image": "agent"}
CHAIN = {
    "steps": [
        {"name": "first", "agent": AGENT},
        {"name": "second", "agent": AGENT, "input": "${steps.first.output}"},
    ],
    "outputs": {"by": "${steps.second.output.at}", "nothing": None},
}


def _condition(status: dict[str, Any], type: str) -> str:
    """The reason of a condition."""
    return next(str(item["reason"]) for item in status["conditions"] if item["type"] == type)


def test_a_chain_succeeds_and_its_status_says_so() -> None:
    async def scenario() -> dict[str, Any]:
        at = World(1)
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await eventually(lambda: at.status_written("chain"))
        at.check([uid])
        status = at.status("chain")
        await at.close()
        return status

    status = run(scenario())
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions["Complete"] == "True"
    assert conditions["Failed"] == "False"
    assert status["progress"] == "2/2"
    assert status["outputs"]["nothing"] is None, "a null of the outputs survives the patch"
    assert status["outputs"]["by"] == output_of("second", None)["at"]


def test_fan_out_keeps_to_parallelism_and_joins_in_order() -> None:
    spec = {
        "parallelism": 3,
        "steps": [
            {"name": "each", "forEach": list(range(10)), "agent": AGENT},
            {"name": "join", "agent": AGENT, "input": {"all": "${steps.each.outputs}"}},
        ],
    }

    async def scenario() -> None:
        at = World(2)
        at.start_operator()
        uid = at.apply("fan", spec)
        await at.until_ended([uid])
        at.check([uid])
        (join,) = [task for key, task in at.tasks(uid).items() if key.step == "join"]
        assert join.input == {"all": [output_of("each", str(index)) for index in range(10)]}
        await at.close()

    run(scenario())


def test_failure_without_retries_fails_the_run_and_skips_the_rest() -> None:
    async def scenario() -> None:
        at = World(3, Profile(odds={"agent fails": 1.0}))
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, ended.reason) == (Phase.FAILED, Reason.EXIT_CODE)
        assert at.steps(uid)["second"].phase is Phase.SKIPPED
        assert at.steps(uid)["second"].reason is Reason.DEPENDENCY_NOT_MET
        at.check([uid])
        await at.close()

    run(scenario())


def test_refused_workflow_starts_no_pod_and_names_the_field() -> None:
    spec = {"steps": [{"name": "a", "agent": AGENT, "dependsOn": ["b"]}, {"name": "b", "agent": AGENT}]}
    spec["steps"][1]["input"] = "${steps.a.output}"  # type: ignore[index] # closes the circle

    async def scenario() -> None:
        at = World(4)
        at.start_operator()
        uid = at.apply("circle", spec)
        await at.until_ended([uid])
        await eventually(lambda: at.status("circle").get("phase") == "Failed", seconds=1.0)
        accepted = next(c for c in at.status("circle")["conditions"] if c["type"] == "Accepted")
        assert accepted["status"] == "False"
        assert "spec.steps[" in accepted["message"]
        assert not at.pods_created
        await at.close()

    run(scenario())


def test_missing_template_is_waited_for_and_used_when_it_comes() -> None:
    spec = {"steps": [{"name": "a", "agent": {"templateRef": "later"}}]}

    async def scenario() -> None:
        at = World(5)
        at.start_operator()
        uid = at.apply("early", spec)
        await eventually(lambda: "later" in at.status("early").get("message", ""))
        accepted = at.status("early")["conditions"][0]
        assert (accepted["status"], accepted["reason"]) == ("Unknown", Reason.TEMPLATE_NOT_FOUND)
        at.apply("later", AGENT, kind="AgentTemplate")
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


def test_missing_template_fails_the_run_in_the_end() -> None:
    async def scenario() -> None:
        at = World(6)
        at.start_operator()
        uid = at.apply("early", {"steps": [{"name": "a", "agent": {"templateRef": "never"}}]})
        (ended,) = await at.until_ended([uid])
        assert ended.reason is Reason.TEMPLATE_NOT_FOUND
        assert ended.finished_at is not None
        waited = (ended.finished_at - ended.created_at).total_seconds()
        assert 60 <= waited < 70
        await at.close()

    run(scenario())


def test_standalone_task_succeeds() -> None:
    async def scenario() -> None:
        at = World(7)
        at.start_operator()
        uid = at.apply("alone", {"agent": AGENT, "input": {"a": 1}}, kind="AgentTask")
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await eventually(lambda: at.status("alone", kind="AgentTask").get("phase") == "Succeeded")
        assert [pod["metadata"]["name"] for pod in at.api.all("Pod")] == ["alone-1"]
        at.check([uid])
        await at.close()

    run(scenario())


def test_deleted_workflow_is_cancelled_and_leaves_no_pods() -> None:
    async def scenario() -> None:
        at = World(8)
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        await eventually(lambda: bool(at.api.all("Pod")))
        at.api.remove("Workflow", "default", "chain")
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, ended.reason) == (Phase.CANCELLED, Reason.DELETED)
        await eventually(lambda: not at.api.all("Pod") and not at.api.all("AgentTask"))
        await at.close()

    run(scenario())


def test_a_deletion_in_a_gap_of_the_watch_is_found_soon_after_it() -> None:
    """The list that ends the gap does not have the object, and no event says that it was deleted."""

    async def scenario() -> None:
        at = World(15)
        at.behaviour.work = (3600.0, 3600.0)
        operator = at.start_operator()
        uid = at.apply("chain", CHAIN)
        await eventually(lambda: bool(at.pods()))
        operator.watch.broken = True
        at.api.remove("Workflow", NAMESPACE, "chain")
        await eventually(lambda: not at.api.all("AgentTask") and not at.api.all("Pod"))
        operator.watch.relist()
        (ended,) = await at.until_ended([uid], seconds=GAP_SECONDS + 3.0)
        assert (ended.phase, ended.reason) == (Phase.CANCELLED, Reason.DELETED)
        await at.close()

    run(scenario())


def test_a_workflow_with_the_name_of_a_deleted_one_is_a_new_run() -> None:
    async def scenario() -> None:
        at = World(9)
        at.start_operator()
        first = at.apply("chain", CHAIN)
        await eventually(lambda: bool(at.api.all("Pod")))
        at.api.remove("Workflow", "default", "chain")
        second = at.apply("chain", CHAIN)
        ended = await at.until_ended([first, second])
        assert {run.uid: run.phase for run in ended} == {first: Phase.CANCELLED, second: Phase.SUCCEEDED}
        at.check([second])
        await at.close()

    run(scenario())


def test_a_standalone_task_applied_again_waits_for_the_pod_of_the_deleted_one() -> None:
    async def scenario() -> None:
        at = World(14)
        at.start_operator()
        at.apply("alone", {"agent": AGENT}, kind="AgentTask")
        await eventually(lambda: bool(at.api.all("Pod")))
        at.api.remove("AgentTask", "default", "alone")
        second = at.apply("alone", {"agent": AGENT}, kind="AgentTask")
        (ended,) = await at.until_ended([second])
        assert ended.phase is Phase.SUCCEEDED, ended
        await at.close()

    run(scenario())


def test_a_successor_reconciles_runs_without_a_running_pod_first() -> None:
    async def scenario() -> str:
        at = World(1)

        def running() -> int:
            return sum((pod.get("status") or {}).get("phase") == "Running" for pod in at.pods())

        at.start_operator()
        at.behaviour.work = (3600.0, 3600.0)
        for name in ("busy-1", "busy-2"):
            at.apply(name, CHAIN)
        await eventually(lambda: running() == 2)
        at.behaviour.work = (5.0, 5.0)
        at.apply("waits", CHAIN)
        await eventually(lambda: running() == 3)
        await at.kill_operator()
        await eventually(lambda: len(at.pods()) == 2)
        reconciler, reconciled = at.start_operator().loop.reconciler, []
        reconcile = reconciler.reconcile

        async def noted(key: RunKey) -> float | None:
            reconciled.append(key.name)
            return await reconcile(key)

        reconciler.reconcile = noted  # type: ignore[method-assign]
        await eventually(lambda: len(reconciled) >= 3)
        await at.close()
        return reconciled[0]

    assert run(scenario()) == "waits"


def test_a_leader_in_its_next_term_uses_no_state_of_the_last_one() -> None:
    """Its last term ended between the status of an ended run and the status of that run's last task."""

    async def scenario() -> None:
        at = World(13)
        operator = at.start_operator()
        uid = at.apply("chain", CHAIN)
        patch, begun, never = operator.kube.patch_status, asyncio.Event(), asyncio.Event()

        async def hangs(kind: str, namespace: str, name: str, body: Any, **options: Any) -> Any:
            if kind == AGENT_TASK and "second" in name and "Succeeded" in str(body):
                begun.set()
                await never.wait()
            return await patch(kind, namespace, name, body, **options)

        operator.kube.patch_status = hangs  # type: ignore[method-assign]
        await at.until_ended([uid])
        await begun.wait()
        operator.loop.status_writer.mark(RunKey(WORKFLOW, NAMESPACE, "chain"))
        assert operator.task is not None
        operator.task.cancel()
        await asyncio.gather(operator.task, return_exceptions=True)
        operator.kube.patch_status = patch  # type: ignore[method-assign]
        take_epoch = operator.ledger.take_epoch

        async def slowly(holder: str) -> int:
            await asyncio.sleep(5.0)
            return await take_epoch(holder)

        operator.ledger.take_epoch = slowly  # type: ignore[method-assign]
        operator.lead()
        await eventually(lambda: at.status("chain").get("phase") == "Succeeded")
        assert {task["status"]["phase"] for task in at.api.all(AGENT_TASK)} == {"Succeeded"}
        await at.close()

    run(scenario())


def test_checkpoints_of_one_agent_are_debounced() -> None:
    """An agent may save a hundred checkpoints a second: its run is reconciled about once a second."""

    async def scenario() -> None:
        at = World(12)
        at.behaviour.work = (30.0, 30.0)
        operator = at.start_operator()
        uid = at.apply("chain", CHAIN)
        await eventually(lambda: bool(at.pods()))
        await asyncio.sleep(5.0)
        reconciled: list[float] = []
        reconcile = operator.loop.reconciler.reconcile

        async def noted(key: RunKey) -> float | None:
            reconciled.append(asyncio.get_running_loop().time())
            return await reconcile(key)

        operator.loop.reconciler.reconcile = noted  # type: ignore[method-assign]
        for _ in range(500):
            at.ledger.wake(Wake(uid, reported=False))
            await asyncio.sleep(0.01)
        assert 4 <= len(reconciled) <= 6
        reconciled.clear()
        at.ledger.wake(Wake(uid, reported=True))
        await asyncio.sleep(0.1)
        assert len(reconciled) == 1, "a report does not wait"
        await at.close()

    run(scenario())


def test_retention_removes_the_object_and_its_history() -> None:
    async def scenario() -> None:
        at = World(10)
        at.start_operator()
        uid = at.apply("chain", {**CHAIN, "retention": {"ttlAfterFinished": "10m"}})
        await at.until_ended([uid])
        await eventually(lambda: at.find("Workflow", "chain") is None, seconds=700)
        await eventually(lambda: uid not in at.ledger.rows)
        await at.close()

    run(scenario())


def test_waiting_for_the_first_relist_ends_when_the_leader_cannot_start() -> None:
    """The watches wait for the first relist, and would otherwise never start."""

    async def scenario() -> None:
        at = World(11)
        at.ledger.leave(hanging=False)
        operator = at.start_operator()
        assert not operator.loop.seen.is_set()
        await eventually(lambda: operator.loop.seen.is_set() and operator.loop.settled.is_set())
        assert at.operator is not None
        assert not at.operator.loop.reconciling
        at.ledger.come_back()
        await eventually(lambda: at.operator is not None and at.operator.loop.reconciling)
        await at.close()

    run(scenario())


def test_ledger_outage_delays_and_says_so() -> None:
    async def scenario() -> None:
        at = World(11)
        at.start_operator()
        await eventually(lambda: at.operator is not None and at.operator.loop.reconciling)
        at.ledger.leave(hanging=False)
        uid = at.apply("chain", CHAIN)
        await eventually(lambda: at.status("chain").get("conditions") is not None)
        reasons = {c["type"]: c["reason"] for c in at.status("chain")["conditions"]}
        assert reasons["Reconciling"] == Reason.LEDGER_UNAVAILABLE
        at.ledger.come_back()
        at.ledger.wake(None)
        await eventually(lambda: _condition(at.status("chain"), "Accepted") == "Accepted")
        at.ledger.leave(hanging=False)
        await eventually(lambda: _condition(at.status("chain"), "Reconciling") == Reason.LEDGER_UNAVAILABLE)
        assert _condition(at.status("chain"), "Accepted") == "Accepted", "what was accepted stays so"
        at.ledger.come_back()
        at.ledger.wake(None)
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        at.check([uid])
        await at.close()

    run(scenario())


def test_pod_that_leaves_after_its_run_has_ended_is_left_alone() -> None:
    async def scenario() -> None:
        at = World(12)
        at.behaviour.reports = True
        at.behaviour.exit_delay = 10.0  # seconds from the report to the end of the container
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        await at.until_ended([uid])
        await eventually(lambda: at.status_written("chain"))
        await eventually(lambda: all(pod["status"]["phase"] == "Succeeded" for pod in at.api.all("Pod")))
        assert len(at.api.all("Pod")) == 2
        await at.close()

    run(scenario())


def test_pod_that_never_leaves_is_deleted_after_its_run_has_ended() -> None:
    async def scenario() -> None:
        at = World(13)
        at.behaviour.reports = True
        at.behaviour.exit_delay = 100_000.0
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        await at.until_ended([uid])
        await eventually(lambda: not at.api.all("Pod"))
        await at.close()

    run(scenario())
