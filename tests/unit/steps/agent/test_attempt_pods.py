"""Which pod is an attempt's, when a Job is between them."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.unit.control.loop_fixture import NAMESPACE, A, ControlLoopFixture, played
from tests.unit.domain.clock import at

from perdure.domain.phases import Phase, Reason
from perdure.steps.agent.attempt_pods import PODLESS

JOB: dict[str, Any] = {"name": "a", "agent": {"image": "agents/audit:1", "executor": "Job"}}
RUNNING = {"running": {"startedAt": "2024-05-01T12:00:00Z"}}
ENDED = {"terminated": {"exitCode": 0, "startedAt": "2024-05-01T12:00:00Z", "message": "done"}}
#: Longer than a watch event, the Job controller, and the garbage collector take.
A_WHILE = 3.0


async def with_pod() -> tuple[ControlLoopFixture, dict[str, Any]]:
    """A Job whose pod runs and is recorded."""
    stage = ControlLoopFixture(JOB)
    await stage.ensure()
    await asyncio.sleep(A_WHILE)
    pod = stage.only("Pod")
    stage.set_pod(pod["metadata"]["name"], RUNNING)
    await asyncio.sleep(A_WHILE)
    await stage.step()
    assert stage.attempt().pod_uid == pod["metadata"]["uid"]
    assert stage.history.tasks[A].phase is Phase.RUNNING
    stage.cluster.calls.clear()
    return stage, pod


def test_a_job_ends_as_its_pod_does() -> None:
    async def scenario() -> None:
        stage, pod = await with_pod()
        stage.set_pod(pod["metadata"]["name"], ENDED, "Succeeded")
        await asyncio.sleep(A_WHILE)
        await stage.step()
        assert (stage.history.phase, stage.history.tasks[A].output) == (Phase.SUCCEEDED, "done")

    played(scenario())


def test_a_deleted_job_is_a_disruption_and_the_next_attempt_has_its_own() -> None:
    async def scenario() -> None:
        stage, _ = await with_pod()
        first = stage.attempt().pod_name
        stage.remove("Job", first)
        await asyncio.sleep(A_WHILE)
        await stage.step()
        assert ("get", "Pod") in stage.cluster.calls, "gone only once the API server has said so"
        task = stage.history.tasks[A]
        assert (task.attempt, task.disruptions, task.retries) == (2, 1, 0)
        assert stage.names("Job") == [stage.attempt().pod_name] != [first]

    played(scenario())


def test_a_pod_that_only_the_store_misses_is_not_gone() -> None:
    async def scenario() -> None:
        stage, pod = await with_pod()
        stage.restart(pods=False)
        observed = await stage.observe()
        assert (observed.gone, observed.pods[A].uid) == (frozenset(), pod["metadata"]["uid"])

    played(scenario())


def test_a_job_deleted_before_its_pod_was_seen_is_gone() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        stage.cluster.jobs_get_pods = False
        await stage.ensure()
        assert not (await stage.observe()).gone
        stage.remove("Job", stage.attempt().pod_name)
        await stage.ensure()
        assert not stage.names("Job"), "it is not made again in the same attempt"
        stage.live.agenda.full_pass = True
        await stage.step()
        assert (stage.history.tasks[A].attempt, stage.history.tasks[A].disruptions) == (2, 1)

    played(scenario())


def test_a_job_whose_pod_came_and_went_unseen_is_gone() -> None:
    """The operator was away all the while; the Job has ended and will make no other."""

    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        stage.receives_events = False
        await stage.ensure()
        await asyncio.sleep(A_WHILE)
        stage.remove("Pod", stage.only("Pod")["metadata"]["name"])
        await asyncio.sleep(A_WHILE)
        stage.restart()
        await stage.ensure()
        stage.live.agenda.full_pass = True
        await stage.step()
        assert (stage.history.tasks[A].attempt, stage.history.tasks[A].disruptions) == (2, 1)

    played(scenario())


def test_a_job_that_gets_no_pod_names_the_command_that_explains_it() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        stage.cluster.jobs_get_pods = False
        await stage.ensure()
        await stage.observe()
        assert stage.live.objects.blocked == {}
        stage.history.now = at(0) + PODLESS + timedelta(seconds=1)
        stage.live.agenda.full_pass = True
        observed = await stage.observe()
        reason, message = observed.blocked[A]
        assert reason is Reason.STARTING
        assert f"kubectl describe job {stage.attempt().pod_name}" in message
        await stage.ensure()
        assert stage.live.objects.blocked == {A: (reason, message)}, "it is still so"
        stage.cluster.add_pod_of(stage.only("Job"))
        await asyncio.sleep(A_WHILE)
        await stage.step()
        assert (stage.live.objects.blocked, stage.live.objects.jobs) == ({}, {})

    played(scenario())


def test_a_second_pod_of_a_job_is_not_adopted() -> None:
    """Exactly one party retries. What the second does counts for nothing, and the first's end counts."""

    async def scenario() -> None:
        stage, first = await with_pod()
        second = stage.cluster.add_pod_of(stage.only("Job"))
        stage.set_pod(second["metadata"]["name"], ENDED, "Succeeded")
        await asyncio.sleep(A_WHILE)
        await stage.step()
        assert stage.history.tasks[A].phase is Phase.RUNNING
        assert stage.attempt().pod_uid == first["metadata"]["uid"]
        stage.remove("Pod", first["metadata"]["name"])
        await asyncio.sleep(A_WHILE)
        await stage.step()
        assert (stage.history.tasks[A].attempt, stage.history.tasks[A].disruptions) == (2, 1)

    played(scenario())


def test_the_first_pods_end_is_observed_though_the_job_has_a_second() -> None:
    async def scenario() -> None:
        stage, first = await with_pod()
        stage.cluster.add_pod_of(stage.only("Job"))
        stage.set_pod(first["metadata"]["name"], ENDED, "Succeeded")
        await asyncio.sleep(A_WHILE)
        await stage.step()
        assert stage.history.phase is Phase.SUCCEEDED

    played(scenario())


def test_a_pod_of_another_controllers_job_is_not_observed() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        await stage.ensure()
        await asyncio.sleep(A_WHILE)
        foreign = stage.only("Job")
        name = foreign["metadata"]["name"]
        stage.cluster.api.objects["Job", NAMESPACE, name]["metadata"]["ownerReferences"] = []
        stage.restart()
        observed = await stage.observe()
        assert (observed.pods, observed.gone) == ({}, frozenset())
        await stage.ensure()
        assert stage.live.objects.refusals[A].reason is Reason.NAME_CONFLICT

    played(scenario())


def test_time_that_is_over_ends_a_job_without_a_pod() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({**JOB, "pendingTimeout": "60s"})
        stage.cluster.jobs_get_pods = False
        await stage.ensure()
        await stage.observe()
        stage.history.now = at(60)
        await stage.step()
        assert stage.history.tasks[A].reason is Reason.PENDING_TIMEOUT
        assert "kubectl describe job" in stage.history.tasks[A].message
        assert stage.names("Job") == [], "its pod must not come after all"

    played(scenario())


def test_a_stopping_job_without_a_pod_is_gone_once_it_is() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        stage.cluster.jobs_get_pods = False
        await stage.ensure()
        stage.history.view.attempts[A] = replace(stage.attempt(), stopping=Reason.PAUSED)
        assert await stage.actuator.stop(stage.live, A) is True
        assert stage.names("Job") == []
        assert (await stage.observe()).gone == {A}

    played(scenario())
