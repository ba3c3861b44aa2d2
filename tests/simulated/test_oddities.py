"""What people and controllers do to the objects of a run, and that no task has two pods because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure.domain.names import LABEL_ATTEMPT, LABEL_MANAGED_BY, LABEL_TASK, LABEL_WORKFLOW
from perdure.domain.phases import Phase
from perdure.domain.records import Report, TaskKey
from tests.fakes.apiserver import NAMESPACE, Object
from tests.fakes.clock import now, run
from tests.fakes.faults import Profile
from tests.fakes.nodes import Pod
from tests.fakes.world import World, eventually

AGENT = {"image": "agent"}
JOB = {"image": "agent", "executor": "Job"}


def chain(agent: dict[str, Any] = AGENT, **fields: Any) -> dict[str, Any]:
    steps = [
        {"name": "work", "agent": agent, **fields},
        {"name": "after", "agent": AGENT, "dependsOn": ["work"]},
    ]
    return {"steps": steps}


async def begun(at: World, spec: dict[str, Any] | None = None) -> tuple[str, Pod]:
    """A run whose first agent works for a while. Returns its uid and its pod."""
    at.behaviour.work = (60.0, 60.0)
    uid = at.apply("odd", chain() if spec is None else spec)
    await eventually(lambda: bool(at.nodes.running()))
    (pod,) = at.nodes.running()
    await eventually(lambda: at.attempts(uid)[TaskKey("work"), 1].started_at is not None)
    return uid, pod


def there(at: World, pod: Pod) -> Object:
    found = at.find("Pod", pod.obj["metadata"]["name"])
    assert found is not None
    return found


LABELS: dict[str, dict[str, str | None]] = {
    "another manager": {LABEL_MANAGED_BY: "other"},
    "no manager": {LABEL_MANAGED_BY: None},
    "another run": {LABEL_WORKFLOW: "another"},
    "another task": {LABEL_TASK: "another"},
    "another attempt": {LABEL_ATTEMPT: "7"},
    "none of ours": dict.fromkeys((LABEL_MANAGED_BY, LABEL_WORKFLOW, LABEL_TASK, LABEL_ATTEMPT)),
}


@pytest.mark.parametrize("agent", [AGENT, JOB], ids=["pod", "job"])
@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
@pytest.mark.parametrize("labels", LABELS)
def test_a_pod_whose_labels_are_changed_stays_the_attempts(
    labels: str, restart: bool, agent: dict[str, Any]
) -> None:
    async def scenario() -> None:
        at = World(1)
        at.behaviour.reports = False
        at.start_operator()
        uid, pod = await begun(at, chain(agent))
        at.api.relabel(pod.obj, "Pod", LABELS[labels])
        if restart:
            await at.kill_operator()
            at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        assert len(at.attempts(uid)) == 2
        assert (at.tasks(uid)[TaskKey("work")].disruptions, at.tasks(uid)[TaskKey("work")].attempt) == (0, 1)
        at.check([uid])
        await at.close()

    run(scenario())


def test_a_pod_that_is_watched_again_is_followed_by_its_events() -> None:
    async def scenario() -> None:
        at = World(2)
        at.start_operator()
        uid, pod = await begun(at)
        for manager in ("other", "perdure", "other", "perdure"):
            at.api.relabel(pod.obj, "Pod", {LABEL_MANAGED_BY: manager})
            await asyncio.sleep(7)
        assert not at.tasks(uid)[TaskKey("work")].disruptions
        at.nodes.delete(pod, force=True)
        await eventually(lambda: at.tasks(uid)[TaskKey("work")].attempt == 2, seconds=3)
        await at.until_ended([uid])
        at.check([uid])
        await at.close()

    run(scenario())


def test_the_deletion_of_a_pod_outside_the_watch_is_noticed() -> None:
    async def scenario() -> None:
        at = World(3)
        at.start_operator()
        uid, pod = await begun(at)
        at.api.relabel(pod.obj, "Pod", {LABEL_MANAGED_BY: "other"})
        await asyncio.sleep(2)
        at.nodes.delete(pod, force=True)
        await eventually(lambda: at.tasks(uid)[TaskKey("work")].attempt == 2, seconds=8)
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


def test_a_pod_without_its_owner_stays_the_attempts() -> None:
    async def scenario() -> None:
        at = World(4)
        at.behaviour.reports = False
        at.start_operator()
        uid, pod = await begun(at)
        at.api.relabel(pod.obj, "Pod", {}, ownerReferences=[])
        await asyncio.sleep(1)
        await at.kill_operator()
        at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, len(at.attempts(uid))) == (Phase.SUCCEEDED, 2)
        await at.close()

    run(scenario())


def job_name(at: World) -> str:
    (job,) = at.api.all("Job")
    return str(job["metadata"]["name"])


def test_a_suspended_job_is_waited_for_and_then_deleted() -> None:
    async def scenario() -> None:
        at = World(5)
        at.start_operator()
        uid, _ = await begun(at, chain(JOB))
        name = job_name(at)
        at.api.set_spec("Job", NAMESPACE, name, suspend=True)
        task = lambda: at.tasks(uid)[TaskKey("work")]  # noqa: E731
        await eventually(lambda: task().attempt == 2)
        await eventually(lambda: at.status("odd")["steps"][0].get("reason") == "Suspended", seconds=8)
        await asyncio.sleep(300)
        assert [job["metadata"]["name"] for job in at.api.all("Job")] == [name]
        assert not at.nodes.running()
        at.api.set_spec("Job", NAMESPACE, name, suspend=False)
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        assert (task().attempt, task().disruptions) == (2, 1)
        await at.close()

    run(scenario())


def test_a_job_suspended_before_its_pod_says_so() -> None:
    async def scenario() -> None:
        at = World(6)
        at.nodes.jobs_get_pods = False
        at.start_operator()
        uid = at.apply("odd", chain(JOB))
        await eventually(lambda: bool(at.api.all("Job")))
        at.api.set_spec("Job", NAMESPACE, job_name(at), suspend=True)
        await eventually(lambda: at.status("odd")["steps"][0].get("reason") == "Suspended", seconds=5)
        at.nodes.jobs_get_pods = True
        at.api.set_spec("Job", NAMESPACE, job_name(at), suspend=False)
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, at.tasks(uid)[TaskKey("work")].attempt) == (Phase.SUCCEEDED, 1)
        await at.close()

    run(scenario())


def test_a_resumed_job_runs_no_pod_next_to_the_next_attempts() -> None:
    """The garbage collector comes for the pods of a deleted Job long after the next attempt has started."""

    async def scenario() -> None:
        for seed in range(20):
            at = World(seed, Profile(odds={"late garbage": 1.0}))
            at.start_operator()
            uid, _ = await begun(at, chain(JOB))
            name = job_name(at)
            at.api.set_spec("Job", NAMESPACE, name, suspend=True)
            await eventually(lambda: at.tasks(uid)[TaskKey("work")].attempt == 2)  # noqa: B023
            await asyncio.sleep(20)
            at.api.set_spec("Job", NAMESPACE, name, suspend=False)
            (ended,) = await at.until_ended([uid])
            assert ended.phase is Phase.SUCCEEDED
            await at.close()

    run(scenario())


def test_a_pod_that_lost_its_job_goes_when_it_has_ended() -> None:
    async def scenario() -> None:
        at = World(10)
        at.behaviour.reports = True
        at.behaviour.exit_delay = 10.0
        at.start_operator()
        spec = {"steps": [{"name": "work", "agent": JOB}], "retention": {"pods": "Never"}}
        uid, pod = await begun(at, spec)
        at.nodes.jobs_get_pods = False
        at.nodes.release_from_job(pod)
        await at.until_ended([uid])
        assert at.nodes.running() == [pod], "its agent leaves by itself"
        await eventually(lambda: at.find("Pod", pod.obj["metadata"]["name"]) is None)
        await at.close()

    run(scenario())


def raise_backoff(at: World, pod: Pod) -> None:
    at.api.set_spec("Job", NAMESPACE, job_name(at), backoffLimit=5)
    pod.crash("Error")


def raise_backoff_and_delete_the_pod(at: World, pod: Pod) -> None:
    at.api.set_spec("Job", NAMESPACE, job_name(at), backoffLimit=5)
    at.nodes.delete(pod, force=True)


@pytest.mark.parametrize("change", [raise_backoff, raise_backoff_and_delete_the_pod])
def test_a_changed_job_runs_no_pod_next_to_the_next_attempts(change: Callable[[World, Pod], None]) -> None:
    async def scenario() -> None:
        at = World(7)
        at.start_operator()
        uid, pod = await begun(at, chain(JOB, retry={"limit": 3}))
        before = job_name(at)
        change(at, pod)
        await eventually(lambda: at.tasks(uid)[TaskKey("work")].attempt == 2)
        await eventually(lambda: len(at.nodes.running()) == 1)
        await asyncio.sleep(20)
        assert before not in [job["metadata"]["name"] for job in at.api.all("Job")]
        assert len(at.nodes.running()) == 1
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


def test_a_second_pod_of_a_job_is_deleted() -> None:
    """The Job controller gives up a pod that lost its label, and creates another one."""

    async def scenario() -> None:
        at = World(8)
        at.behaviour.reports = False
        at.nodes.grace = 1.0
        at.start_operator()
        uid, pod = await begun(at, chain(JOB))
        at.nodes.release_from_job(pod)
        await eventually(lambda: len(at.guarantees.truths) == 2)
        await asyncio.sleep(10)
        assert at.nodes.running() == [pod]
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, at.tasks(uid)[TaskKey("work")].attempt) == (Phase.SUCCEEDED, 1)
        await at.close()

    run(scenario())


def test_an_attempt_that_reported_its_failure_is_asked_to_leave_before_the_next_starts() -> None:
    async def scenario() -> None:
        at = World(9)
        at.start_operator()
        _, pod = await begun(at, chain(retry={"limit": 1, "backoff": {"initial": "0s"}}))
        pod.agent.process.stop()  # it reports, and works on
        session = at.ledger.attempt_for_pod(NAMESPACE, pod.truth.uid)
        failure = Report(outcome="Failed", message="on my own", at=now())
        at.ledger.report(session, pod.truth.uid, failure)
        await eventually(lambda: len(at.guarantees.truths) == 2)
        assert "deletionTimestamp" in there(at, pod)["metadata"]
        await at.close()

    run(scenario())
