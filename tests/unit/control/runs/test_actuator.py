"""What is made for an attempt, what is remembered of it, and what becomes of refusals."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.control.loop_fixture import NAMESPACE, A, ControlLoopFixture, played
from tests.unit.domain.builders import UID

from perdure.api.step import MAX_WORKFLOW_DEPTH
from perdure.control.runs.actuator import PATIENCE, QUOTA_PAUSE, ROUND, ROUND_PAUSE, UNANSWERED
from perdure.domain.engine.observed import Observed
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey
from perdure.kube.errors import ApiError, ErrorCause, ErrorDetails

POD = {"name": "a"}
JOB: dict[str, Any] = {"name": "a", "agent": {"image": "agents/audit:1", "executor": "Job"}}
CHILD: dict[str, Any] = {
    "name": "a",
    "workflow": {"templateRef": "audits", "inputs": {"n": "${inputs.n + 1}"}},
}
#: Longer than a watch event or the Job controller takes.
A_WHILE = 2.0


async def soon() -> None:
    await asyncio.sleep(A_WHILE)


# --- pods


def test_an_attempt_gets_a_task_and_a_pod() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        await stage.ensure()
        task, pod = stage.only("AgentTask"), stage.only("Pod")
        assert pod["metadata"]["name"] == stage.attempt().pod_name
        assert pod["metadata"]["ownerReferences"][0]["uid"] == task["metadata"]["uid"]
        assert stage.ledger.recorded == {A: pod["metadata"]["uid"]}
        assert stage.attempt().pod_uid == pod["metadata"]["uid"]

    played(scenario())


def test_what_was_done_before_a_crash_is_found_again() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        stage.receives_events = False
        await stage.ensure()
        uid = stage.only("Pod")["metadata"]["uid"]
        stage.history.view.attempts[A] = replace(stage.attempt(), pod_uid=None)
        stage.ledger.recorded.clear()
        stage.restart(pods=False)
        await stage.ensure()
        assert stage.ledger.recorded == {A: uid}
        assert len(stage.cluster.all("AgentTask")) == len(stage.cluster.all("Pod")) == 1

    played(scenario())


def test_a_task_says_how_hard_it_tries() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(
            {
                **POD,
                "retry": {"limit": 3},
                "disruptions": {"limit": 4},
                "timeout": "90s",
                "pendingTimeout": "1500ms",
                "idleTimeout": "1h",
            }
        )
        await stage.ensure()
        spec = stage.only("AgentTask")["spec"]
        assert (spec["retry"]["limit"], spec["disruptions"]["limit"]) == (3, 4)
        assert (spec["timeout"], spec["pendingTimeout"], spec["idleTimeout"]) == ("90s", "1500ms", "3600s")

    played(scenario())


def test_the_next_attempts_environment_has_the_last_failure() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({**POD, "retry": {"limit": 1}})
        await stage.ensure()
        first = _environment(stage)
        assert "PERDURE_LAST_FAILURE" not in first
        stage.history.exited(A, code=3)
        stage.history.settle(now=stage.history.tasks[A].retry_at)
        await stage.ensure()
        text = _environment(stage)["PERDURE_LAST_FAILURE"]
        assert '"attempt":1' in text and '"reason":"ExitCode"' in text and '"exitCode":3' in text

    played(scenario())


def _environment(stage: ControlLoopFixture) -> dict[str, str]:
    pod = stage.cluster.stored("Pod", stage.attempt().pod_name, NAMESPACE)
    assert pod is not None
    return {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}


def test_a_template_that_cannot_be_merged_fails_the_task_and_names_the_field() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        block = dict(stage.history.view.plan.steps["a"].block) | {"podTemplate": {"spec": {"volumes": [{}]}}}
        steps = {"a": replace(stage.history.view.plan.steps["a"], block=block)}
        stage.history.view.plan = replace(stage.history.view.plan, steps=steps)
        await stage.ensure()
        refusal = stage.live.objects.refusals[A]
        assert refusal.reason is Reason.INVALID_CONFIG
        assert refusal.message.startswith("agent.podTemplate.spec.volumes[0].name: ")
        assert not stage.cluster.all("Pod")

    played(scenario())


# --- Jobs


def test_the_pod_of_a_job_is_recorded_when_it_is_seen() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        await stage.ensure()
        job, task = stage.only("Job"), stage.only("AgentTask")
        assert job["metadata"]["name"] == stage.attempt().pod_name
        assert job["metadata"]["ownerReferences"][0]["uid"] == task["metadata"]["uid"]
        assert stage.ledger.recorded == {}, "the gateway would admit no agent with a Job's uid"
        calls = len(stage.cluster.calls)
        await stage.ensure()
        assert len(stage.cluster.calls) == calls, "there is nothing to do but wait"
        await soon()
        pod = stage.only("Pod")
        await stage.step()
        assert stage.ledger.recorded == {A: pod["metadata"]["uid"]}
        assert stage.names("Job") == [stage.attempt().pod_name]
        assert stage.cluster.made[stage.attempt().pod_name] == 1

    played(scenario())


def test_a_job_that_was_made_before_a_crash_is_found_again() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        await stage.ensure()
        await soon()
        stage.restart()
        await stage.ensure()
        assert stage.ledger.recorded == {A: stage.only("Pod")["metadata"]["uid"]}
        assert len(stage.cluster.all("Job")) == 1

    played(scenario())


def test_a_job_of_our_name_that_is_not_ours_is_a_conflict() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        body = {
            "metadata": {"name": stage.attempt().pod_name},
            "spec": {"template": {"metadata": {}, "spec": {}}},
        }
        stage.cluster.add("Job", NAMESPACE, body)
        await soon()
        await stage.ensure()
        assert stage.live.objects.refusals[A].reason is Reason.NAME_CONFLICT
        assert stage.ledger.recorded == {}

    played(scenario())


def test_a_job_without_a_pod_goes_with_its_attempt() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        stage.cluster.jobs_get_pods = False
        await stage.ensure()
        stage.history.settle(Observed(desired="Cancelled"))
        assert stage.history.phase is Phase.CANCELLED
        await stage.ensure()
        assert stage.names("Job") == []
        assert stage.live.objects.jobs == {}

    played(scenario())


def test_a_job_whose_pod_was_seen_is_kept() -> None:
    """Its pod ended before it was recorded: logs are kept as long as the task."""

    async def scenario() -> None:
        stage = ControlLoopFixture(JOB)
        await stage.ensure()
        await soon()
        ended = {"terminated": {"exitCode": 0, "startedAt": "2024-05-01T12:00:00Z"}}
        stage.set_pod(stage.only("Pod")["metadata"]["name"], ended, "Succeeded")
        await soon()
        await stage.step()
        assert stage.history.phase is Phase.SUCCEEDED
        assert len(stage.cluster.all("Job")) == len(stage.cluster.all("Pod")) == 1

    played(scenario())


# --- stopping


@pytest.mark.parametrize(("step", "kind"), [(POD, "Pod"), (JOB, "Job")])
def test_a_stopping_attempt_loses_its_pod_and_gets_no_other(step: dict[str, Any], kind: str) -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(step)
        await stage.ensure()
        await soon()
        await stage.step()
        stage.history.settle(Observed(desired="Paused"))
        assert stage.attempt().stopping is Reason.PAUSED
        assert await stage.actuator.stop(stage.live, A) is False
        assert ("delete", kind) in stage.cluster.calls
        await soon()
        assert stage.names("Pod") == stage.names("Job") == []
        calls = len(stage.cluster.calls)
        await stage.ensure()
        assert len(stage.cluster.calls) == calls
        observed = await stage.observe()
        assert observed.gone == {A}, "nothing is left, and a decision is to know"
        stage.history.decide(replace(observed, desired="Paused"))
        assert (stage.history.tasks[A].phase, stage.history.tasks[A].disruptions) == (Phase.PAUSED, 0)

    played(scenario())


def test_a_pod_is_asked_to_leave_once() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        stage.cluster.grace = 10.0
        await stage.ensure()
        stage.set_pod(stage.attempt().pod_name, {"running": {"startedAt": "2024-05-01T12:00:00Z"}})
        await asyncio.sleep(0.5)
        stage.history.settle(Observed(desired="Paused"))
        await stage.actuator.stop(stage.live, A)
        await asyncio.sleep(0.5)
        await stage.actuator.stop(stage.live, A)
        assert stage.cluster.calls.count(("delete", "Pod")) == 1
        assert (await stage.observe()).pods[A].deletion is not None

    played(scenario())


@pytest.mark.parametrize("step", [POD, JOB])
def test_a_pod_that_was_never_observed_is_read_before_it_counts_as_gone(step: dict[str, Any]) -> None:
    """A pod that was created before a crash and not recorded is not orphaned."""

    async def scenario() -> None:
        stage = ControlLoopFixture(step)
        stage.receives_events = False
        await stage.ensure()
        await soon()
        stage.restart(pods=False)
        attempt = replace(stage.attempt(), pod_uid=None, stopping=Reason.PAUSED)
        stage.history.view.attempts[A] = attempt
        assert await stage.actuator.stop(stage.live, A) is True
        assert not (await stage.observe()).gone
        assert await stage.actuator.stop(stage.live, A) is False
        await soon()
        assert stage.names("Pod") == []

    played(scenario())


# --- children


def test_an_attempt_of_a_workflow_step_is_a_workflow() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(CHILD, inputs={"n": 1}, depth=2)
        await stage.ensure()
        child = stage.only("Workflow")
        metadata = child["metadata"]
        assert metadata["name"] == stage.attempt().pod_name
        assert child["spec"] == {"templateRef": "audits", "inputs": {"n": 2}}
        assert metadata["annotations"] == {"perdure.dev/depth": "3"}
        assert metadata["labels"]["perdure.dev/workflow"] == "audit"
        assert (metadata["labels"]["perdure.dev/step"], metadata["labels"]["perdure.dev/attempt"]) == (
            "a",
            "1",
        )
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
            "Workflow",
            "audit",
            UID,
            True,
        )
        assert stage.ledger.recorded == {A: metadata["uid"]}
        assert not stage.cluster.all("AgentTask")

    played(scenario())


def test_the_event_that_adds_a_child_still_counts_as_a_change() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(CHILD, inputs={"n": 1})
        stage.receives_events = False
        await stage.ensure()
        assert stage.store.apply("Workflow", stage.only("Workflow")) is not None

    played(scenario())


def test_an_inline_child_keeps_what_it_says() -> None:
    async def scenario() -> None:
        spec = {"steps": [{"name": "x", "agent": {"image": "i"}, "input": "${inputs.n}"}], "parallelism": 2}
        stage = ControlLoopFixture({"name": "a", "workflow": {"spec": spec, "inputs": {"n": 5}}})
        await stage.ensure()
        assert stage.only("Workflow")["spec"] == {**spec, "inputs": {"n": 5}}

    played(scenario())


def test_children_of_children_have_an_end() -> None:
    async def scenario() -> None:
        last = ControlLoopFixture(CHILD, inputs={"n": 1}, depth=MAX_WORKFLOW_DEPTH - 1)
        await last.ensure()
        assert len(last.cluster.all("Workflow")) == 1
        stage = ControlLoopFixture(CHILD, inputs={"n": 1}, depth=MAX_WORKFLOW_DEPTH)
        await stage.ensure()
        assert stage.live.objects.refusals[A].reason is Reason.INVALID_CONFIG
        assert not stage.cluster.all("Workflow")

    played(scenario())


def test_a_workflow_of_our_name_that_is_not_ours_is_a_conflict() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(CHILD, inputs={"n": 1})
        stage.cluster.add("Workflow", NAMESPACE, {"metadata": {"name": stage.attempt().pod_name}})
        await stage.ensure()
        assert stage.live.objects.refusals[A].reason is Reason.NAME_CONFLICT

    played(scenario())


# --- refusals


@pytest.mark.parametrize(
    ("step", "kind", "what"),
    [(POD, "Pod", "pod"), (JOB, "Job", "Job"), (CHILD, "Workflow", "child Workflow")],
)
def test_a_refusal_that_never_heals(step: dict[str, Any], kind: str, what: str) -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(step, inputs={"n": 1})
        details = ErrorDetails(name="x", kind=kind, causes=(ErrorCause(message="bad", field="spec.x"),))
        stage.cluster.refuse[kind] = ApiError(422, "Invalid", "spec.x: bad", details=details)
        await stage.ensure()
        refusal = stage.live.objects.refusals[A]
        assert (refusal.reason, refusal.attempt) == (Reason.INVALID_CONFIG, 1)
        assert refusal.message == f"the API server refuses the {what}: spec.x: bad"
        assert stage.live.objects.blocked == {}

    played(scenario())


@pytest.mark.parametrize(("step", "kind"), [(POD, "Pod"), (JOB, "Job"), (CHILD, "Workflow")])
def test_a_quota_is_waited_for(step: dict[str, Any], kind: str) -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(step, inputs={"n": 1})
        stage.cluster.refuse[kind] = ApiError(403, "Forbidden", "exceeded quota: few")
        await stage.ensure()
        assert stage.live.objects.blocked == {A: (Reason.QUOTA, "exceeded quota: few")}
        assert (await stage.observe()).blocked == stage.live.objects.blocked
        del stage.cluster.refuse[kind]
        await stage.ensure()
        assert stage.live.objects.blocked == {}
        assert len(stage.cluster.all(kind)) == 1

    played(scenario())


@pytest.mark.parametrize(("step", "kind"), [(POD, "Pod"), (JOB, "Job"), (CHILD, "Workflow")])
@pytest.mark.parametrize(
    "message",
    [
        'error looking up service account team/reader: serviceaccount "reader" not found',
        'violates PodSecurity "restricted:latest": runAsNonRoot != true',
        'User "operator" cannot create resource: RBAC: clusterrole "perdure-operator" not found',
    ],
)
def test_a_forbidden_object_is_retried_and_named_in_the_status(
    step: dict[str, Any], kind: str, message: str
) -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(step, inputs={"n": 1})
        stage.cluster.refuse[kind] = ApiError(403, "Forbidden", message)
        await stage.ensure()
        assert stage.live.objects.refusals == {}
        reason, blocked = stage.live.objects.blocked[A]
        assert (reason, message in blocked) == (Reason.STARTING, True)
        del stage.cluster.refuse[kind]
        await stage.ensure()
        assert stage.live.objects.blocked == {}
        assert len(stage.cluster.all(kind)) == 1

    played(scenario())


def test_an_agent_task_that_is_forbidden_is_waited_for() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        stage.cluster.refuse["AgentTask"] = ApiError(403, "Forbidden", "agenttasks is forbidden")
        await stage.ensure()
        assert (stage.live.objects.refusals, set(stage.live.objects.blocked)) == ({}, {A})

    played(scenario())


@pytest.mark.parametrize(
    ("step", "kind"), [(POD, "Pod"), (JOB, "Job"), (CHILD, "Workflow"), (POD, "AgentTask")]
)
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0, "NoAnswer"),
        (400, ""),
        (404, ""),
        (409, ""),
        (409, "Conflict"),
        (422, "Invalid"),
        (429, ""),
        (500, "InternalError"),
        (503, "Unavailable"),
    ],
)
def test_any_refusal_but_of_the_object_itself_is_waited_for(
    step: dict[str, Any], kind: str, status: int, reason: str
) -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(step, inputs={"n": 1})
        stage.cluster.refuse[kind] = ApiError(status, reason, "denied by x")
        await stage.ensure()
        assert stage.live.objects.refusals == {}
        waits, message = stage.live.objects.blocked[A]
        assert (waits, message.endswith(": denied by x")) == (Reason.STARTING, True)
        del stage.cluster.refuse[kind]
        await stage.ensure()
        assert (stage.live.objects.blocked, stage.live.objects.retries) == ({}, {})
        assert len(stage.cluster.all(kind)) == 1

    played(scenario())


def test_a_namespace_that_is_terminating_is_named() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        cause = ErrorCause(reason="NamespaceTerminating", field="metadata.namespace")
        details = ErrorDetails(name="x", kind="pods", causes=(cause,))
        stage.cluster.refuse["Pod"] = ApiError(403, "Forbidden", "forbidden", details=details)
        await stage.ensure()
        text = "the namespace team is being deleted: nothing is created in it any more"
        assert stage.live.objects.blocked == {A: (Reason.STARTING, text)}

    played(scenario())


def test_one_refused_task_holds_up_no_other() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "agent": {"image": "i"}, "forEach": [0, 1, 2]})
        refused = stage.history.view.attempts[TaskKey("a", 1)].pod_name
        stage.cluster.refuse_name[refused] = ApiError(500, "InternalError", "failed calling webhook")
        await stage.ensure()
        assert set(stage.live.objects.blocked) == {TaskKey("a", 1)}
        assert set(stage.ledger.recorded) == {TaskKey("a", 0), TaskKey("a", 2)}

    played(scenario())


def test_creates_are_retried_with_a_growing_delay_and_jitter() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        stage.cluster.refuse["Pod"] = ApiError(403, "Forbidden", "denied")
        now = stage.history.now
        delays = []
        for _ in range(12):
            await stage.actuator.ensure(stage.live, [A], now=now, epoch=1)
            calls = stage.cluster.calls.count(("create", "Pod"))
            assert stage.live.agenda.retry_blocked_at is not None
            early = stage.live.agenda.retry_blocked_at - timedelta(milliseconds=1)
            await stage.actuator.ensure(stage.live, [A], now=early, epoch=1)
            assert stage.cluster.calls.count(("create", "Pod")) == calls, "before its time"
            delays.append((stage.live.agenda.retry_blocked_at - now).total_seconds())
            now = stage.live.agenda.retry_blocked_at
        assert stage.cluster.calls.count(("create", "Pod")) == 12
        wanted = [min(0.25 * 2**tries, 15.0) for tries in range(12)]
        assert all(most / 2 <= delay <= most for delay, most in zip(delays, wanted, strict=True))
        assert len({delay / most for delay, most in zip(delays, wanted, strict=True)}) > 6

    played(scenario())


def test_a_retry_waits_for_as_long_as_the_server_asks() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        stage.cluster.refuse["Pod"] = ApiError(429, "TooManyRequests", "later", retry_after=7.0)
        await stage.ensure()
        assert stage.live.objects.retries[A].at == stage.history.now + timedelta(seconds=7)

    played(scenario())


def test_a_fan_out_that_is_refused_is_retried_a_round_at_a_time() -> None:
    async def scenario() -> None:
        items = list(range(100))
        stage = ControlLoopFixture({"name": "a", "agent": {"image": "i"}, "forEach": items})
        stage.cluster.refuse["Pod"] = ApiError(403, "Forbidden", "exceeded quota: few")
        await stage.ensure()
        assert len(stage.live.objects.retries) == 100
        late = stage.history.now + timedelta(minutes=1)
        stage.cluster.calls.clear()
        await stage.actuator.ensure(stage.live, [], now=late, epoch=1)
        assert stage.cluster.calls.count(("create", "Pod")) == ROUND
        assert stage.live.agenda.retry_blocked_at == late + ROUND_PAUSE
        stage.cluster.refuse.clear()
        late += ROUND_PAUSE
        rounds = 0
        while stage.live.objects.retries:
            await stage.actuator.ensure(stage.live, [], now=late, epoch=1)
            rounds += 1
            # The next round follows at once, but for those that the first one tried a moment ago.
            late = max(late, stage.live.agenda.retry_blocked_at or late)
        assert len(stage.cluster.all("Pod")) == 100
        assert rounds < 10

    played(scenario())


def test_the_end_of_an_attempt_retries_what_a_quota_refused() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "agent": {"image": "i"}, "forEach": [0, 1]})
        first, second = (TaskKey("a", index) for index in (0, 1))
        names = {key: stage.history.view.attempts[key].pod_name for key in (first, second)}
        stage.cluster.refuse_name[names[first]] = ApiError(403, "Forbidden", "exceeded quota: few")
        stage.cluster.refuse_name[names[second]] = ApiError(403, "Forbidden", "denied")
        for _ in range(8):
            await stage.ensure()
        now = stage.history.now
        before = stage.live.objects.retries[second]
        stage.actuator.note_ended(stage.live, now)
        assert stage.live.objects.retries[first].at == now + QUOTA_PAUSE
        assert stage.live.objects.retries[second] == before

    played(scenario())


def test_a_create_without_an_answer_holds_up_no_pass() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "agent": {"image": "i"}, "forEach": [0, 1]})
        first, second = (TaskKey("a", index) for index in (0, 1))
        stage.cluster.slow[stage.history.view.attempts[first].pod_name] = 20.0
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await stage.ensure()
        assert loop.time() - begun < 2 * PATIENCE
        assert set(stage.ledger.recorded) == {second}
        reason, message = stage.live.objects.blocked[first]
        assert (reason, message) == (Reason.STARTING, UNANSWERED.format(noun="pod"))
        assert not stage.woken
        await stage.ensure()
        assert stage.cluster.calls.count(("create", "Pod")) == 2, "it is under way"
        await asyncio.sleep(21)
        assert stage.woken == [stage.live.key]
        await stage.ensure()
        assert set(stage.ledger.recorded) == {first, second}
        assert (stage.live.objects.blocked, stage.live.objects.creating) == ({}, {})

    played(scenario())


def test_a_create_of_a_closed_attempt_is_cancelled() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        attempt = stage.attempt()
        stage.cluster.slow[attempt.pod_name] = 20.0
        await stage.ensure()
        closed = replace(attempt, closed_at=stage.history.now)
        stage.live.view.attempts[A] = closed
        stage.live.view.open.discard(A)
        await stage.actuator.ensure(stage.live, [], now=stage.history.now, epoch=1)
        await asyncio.sleep(30)
        assert not stage.cluster.all("Pod")
        assert (stage.live.objects.blocked, stage.live.objects.creating, stage.woken) == ({}, {}, [])

    played(scenario())


def test_the_end_of_leadership_cancels_creates() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(POD)
        stage.cluster.slow[stage.attempt().pod_name] = 20.0
        await stage.ensure()
        await stage.actuator.close()
        await asyncio.sleep(30)
        assert not stage.cluster.all("Pod")

    played(scenario())
