"""What people see of a run and its tasks."""

from typing import Any

import pytest
from tests.unit.control.lives import Live, condition, conditions
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import FATAL, SUCCESS

from perdure.api.status import MAX_SUMMARY, AgentTaskStatus, WorkflowStatus
from perdure.control.status.compute import small
from perdure.domain.engine.observed import Observed
from perdure.domain.payloads import Payload, payload_of, value_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report, TaskKey, Vitals

A, B = TaskKey("a"), TaskKey("b")


def step(name: str, *needed: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "dependsOn": list(needed), **fields}


def test_a_run_from_its_first_task_to_its_end() -> None:
    live = Live(step("a"), step("b", "a"), outputs={"n": "${steps.b.output.n}", "none": None})
    status = live.status()
    assert (status["phase"], status["progress"]) == ("Running", "0/2")
    assert status["message"] == f"{live.tasks[A].name}: the pod is being made"
    assert status["steps"] == [
        {
            "name": "a",
            "phase": "Running",
            "reason": "Starting",
            "message": "the pod is being made",
            "tasks": {"total": 1, "pending": 1},
        },
        {"name": "b", "phase": "Pending", "reason": "Dependency", "message": "waits for a"},
    ]
    assert (status["attempts"], status["events"], status["observedGeneration"]) == (1, 3, 3)
    assert status["startedAt"] == "2024-05-01T12:00:00Z"
    assert "finishedAt" not in status and "outputs" not in status
    live.now = at(5)
    live.started(A)
    status = live.status()
    assert (status["message"], status["tasks"]) == ("running: a", {"total": 1, "running": 1})
    assert status["steps"][0] == {"name": "a", "phase": "Running", "tasks": {"total": 1, "running": 1}}
    live.reported(A, SUCCESS)
    live.started(B)
    assert live.status()["progress"] == "1/2"
    live.now = at(9)
    live.reported(B, SUCCESS)
    status = live.status()
    assert (status["phase"], status["progress"], status["message"]) == ("Succeeded", "2/2", "")
    assert status["outputs"] == {"n": 1, "none": None}
    assert status["finishedAt"] == "2024-05-01T12:00:09Z"
    assert status["events"] == live.run.last_sequence
    assert conditions(status)["Complete"] == ("True", "Succeeded")


def test_a_failed_run_says_why() -> None:
    live = Live(step("a"), step("b", "a"))
    live.reported(A, FATAL)
    status = live.status()
    assert (status["phase"], status["message"]) == ("Failed", "step 'a' failed: no hope")
    assert status["steps"] == [
        {
            "name": "a",
            "phase": "Failed",
            "reason": "AgentFailure",
            "message": "no hope",
            "tasks": {"total": 1, "failed": 1},
        },
        # 3: visible without an AgentTask.
        {
            "name": "b",
            "phase": "Skipped",
            "reason": "DependencyNotMet",
            "message": "step 'a' did not succeed",
        },
    ]
    assert status["progress"] == "2/2"
    assert "outputs" not in status


@pytest.mark.parametrize(
    ("facts", "reason", "message"),
    [
        ({"phase": "Pending", "started_at": None}, "Starting", "the pod is being started"),
        (
            {"phase": "Pending", "started_at": None, "unschedulable": "0/3 nodes are available"},
            "Unschedulable",
            "0/3 nodes are available",
        ),
        (
            {"phase": "Pending", "started_at": None, "waiting": ("ImagePullBackOff", "no such image")},
            "ImagePull",
            "ImagePullBackOff: no such image",
        ),
        (
            {"phase": "Pending", "started_at": None, "waiting": ("ErrImagePull", "")},
            "ImagePull",
            "ErrImagePull",
        ),
        (
            {"phase": "Pending", "started_at": None, "waiting": ("CreateContainerConfigError", "no secret")},
            "Starting",
            "CreateContainerConfigError: no secret",
        ),
        (
            {"phase": "Pending", "started_at": None, "waiting": ("ContainerCreating", "")},
            "Starting",
            "the pod is being started",
        ),
    ],
)
def test_why_it_waits_is_in_one_condition(facts: dict[str, Any], reason: str, message: str) -> None:
    """Guarantee 8."""
    live = Live(step("a"))
    live.see(A, **facts)
    status = live.status()
    reconciling = condition(status, "Reconciling")
    assert (reconciling["status"], reconciling["reason"]) == ("True", reason)
    assert reconciling["message"] == f"{live.tasks[A].name}: {message}" == status["message"]
    assert (status["steps"][0]["reason"], status["steps"][0]["message"]) == (reason, message)
    task = live.task_status(A)
    assert (task["phase"], task["reason"], task["message"]) == ("Pending", reason, message)
    assert condition(task, "Reconciling")["reason"] == reason


def test_a_pod_of_an_earlier_attempt_explains_nothing() -> None:
    live = Live(step("a"))
    live.see(A, phase="Pending", started_at=None, unschedulable="no node")
    live.gone(A)
    (pod,) = live.pods.values()
    live.pods[live.view.attempts[A].pod_name] = pod
    assert live.status()["steps"][0]["message"] == "the pod is being made"


def test_what_the_api_server_holds_up_is_said_first() -> None:
    live = Live(step("a"))
    live.live.objects.blocked[A] = (Reason.QUOTA, "exceeded quota: pods=10")
    assert condition(live.status(), "Reconciling")["reason"] == "Quota"


def test_a_retry_says_when_it_comes_and_what_went_wrong() -> None:
    live = Live(step("a", retry={"limit": 1}))
    live.exited(A, code=3)
    status = live.status()
    retry_at = live.tasks[A].retry_at
    assert retry_at is not None
    said = status["steps"][0]
    assert (said["phase"], said["reason"]) == ("Running", "Backoff")
    assert said["message"].startswith("attempt 2 starts at 2024-05-01T12:00:0")
    assert said["message"].endswith(": exit code 3")
    assert said["tasks"] == {"total": 1, "pending": 1}


def test_a_run_waits_only_if_all_of_its_tasks_do() -> None:
    live = Live(step("a"), step("b"))
    live.started(B)
    status = live.status()
    assert condition(status, "Reconciling")["reason"] == "Running"
    assert status["message"] == "running: a, b"


def test_a_step_that_waits_for_parallelism_says_so() -> None:
    live = Live(step("a", forEach=list(range(5))), step("b"), parallelism=2)
    steps = live.status()["steps"]
    assert steps[0]["reason"] == "Parallelism"
    assert steps[0]["message"] == "3 tasks wait: parallelism 2"
    assert steps[0]["tasks"] == {"total": 5, "pending": 2}
    assert steps[1] == {
        "name": "b",
        "phase": "Pending",
        "reason": "Parallelism",
        "message": "parallelism 2 is used up",
        "tasks": {"total": 1},
    }


def test_many_running_steps_are_named_in_part() -> None:
    live = Live(*(step(name) for name in "abcde"))
    live.started(*(TaskKey(name) for name in "abcde"))
    assert live.status()["message"] == "running: a, b, c and 2 more"


@pytest.mark.parametrize(("ended", "progress"), [(0, "0/4"), (1, "1/4"), (3, "3/4")])
def test_progress_counts_each_task_and_a_step_without_tasks_as_one(ended: int, progress: str) -> None:
    live = Live(step("a", forEach=[1, 2, 3]), step("b", "a"))
    live.settle(Observed(reports={TaskKey("a", index): (1, SUCCESS) for index in range(ended)}))
    assert live.status()["progress"] == progress


def test_progress_never_counts_less_than_before() -> None:
    """A step counts as one before its items are known, and a step with no items stays one that is done."""
    live = Live(step("a"), step("b", "a", forEach="${steps.a.output}"))
    assert live.status()["progress"] == "0/2"
    live.reported(A, Report(outcome="Succeeded", output=payload_of([]), at=START))
    assert (live.phase, live.status()["progress"]) == (Phase.SUCCEEDED, "2/2")
    live = Live(step("a", forEach="${inputs.gone}"))
    assert (live.phase, live.status()["progress"]) == (Phase.FAILED, "1/1")


def test_counts_by_phase_leave_out_zeros() -> None:
    live = Live(step("a", forEach=[1, 2, 3, 4]))
    keys = [TaskKey("a", index) for index in range(4)]
    live.started(keys[0], keys[1])
    live.reported(keys[1], SUCCESS)
    live.reported(keys[2], FATAL)
    status = live.status()
    assert status["tasks"] == {"total": 4, "pending": 1, "running": 1, "succeeded": 1, "failed": 1}
    assert status["steps"][0]["tasks"] == status["tasks"]


# --- tasks


def test_a_task_and_its_result() -> None:
    live = Live(step("a", retry={"limit": 1}))
    live.exited(A, code=4)
    live.settle(now=at(30))
    live.gone(A)
    live.exited(A, message='{"n": null}')
    status = live.task_status(A)
    assert status | {"conditions": None} == {
        "observedGeneration": 1,
        "phase": "Succeeded",
        "attempt": 3,
        "podName": live.view.attempts[A].pod_name,
        "exitCode": 0,
        "retries": 1,
        "disruptions": 1,
        "lastFailure": {"attempt": 2, "reason": "Disrupted", "message": "the pod was deleted from outside"},
        "output": {"n": None},
        "startedAt": "2024-05-01T12:00:00Z",
        "finishedAt": "2024-05-01T12:00:30Z",
        "conditions": None,
    }


def test_a_tasks_vitals() -> None:
    live = Live(step("a"))
    live.started(A)
    live.live.updates.vitals[A] = Vitals(
        key=A,
        attempt=1,
        changed_at=at(3),
        checkpoint_sequence=7,
        checkpoint_label="file 3",
        checkpoint_at=at(2),
        percent=12.5,
        message="x" * 500,
    )
    status = live.task_status(A)
    assert status["checkpoint"] == {"sequence": 7, "label": "file 3", "at": "2024-05-01T12:00:02Z"}
    assert status["progress"] == {"percent": 12.5, "message": "x" * 119 + "…"}


def test_a_standalone_tasks_status_is_of_its_own_generation() -> None:
    live = Live(name="alone")
    assert live.task_status(TaskKey(""))["observedGeneration"] == 3


# --- bounds


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("x" * (8 * 1024 - 2), True),
        ("x" * (8 * 1024 - 1), False),
        ("é" * (4 * 1024 - 1), True),
        ("é" * (4 * 1024), False),
        (None, True),
        ({"a": [None]}, True),
    ],
)
def test_outputs_too_large_for_a_status_are_replaced_by_a_note(value: Any, kept: bool) -> None:
    """Sizes are counted on compact UTF-8 JSON (19)."""
    shown = small(payload_of(value))
    if kept:
        # The body of a larger one is read from the ledger before the status is written.
        assert (value_of(shown) if isinstance(shown, Payload) else shown) == value
    else:
        assert shown["truncated"] is True
        assert shown["bytes"] == 8 * 1024 + (1 if value[0] == "x" else 2)
        assert "the ledger has it" in shown["note"]


def test_statuses_are_what_the_schema_says() -> None:
    live = Live(step("a", forEach=[1, 2], retry={"limit": 1}), step("b", "a"), parallelism=1)
    seen = [live.status()]
    first = TaskKey("a", 0)
    live.started(first)
    live.exited(first, code=1)
    seen.append(live.status())
    live.reported(first, FATAL)
    live.settle(now=at(90))
    live.reported(first, FATAL)
    seen.append(live.status())
    assert live.phase is Phase.FAILED
    for status in seen:
        WorkflowStatus.model_validate(status)
    AgentTaskStatus.model_validate(live.task_status(first))


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        ("x" * MAX_SUMMARY, None),
        ("x" * (MAX_SUMMARY + 1), "x" * (MAX_SUMMARY - 1) + "…"),
        ("one\n two", "one two"),
    ],
)
def test_a_long_message_has_a_summary_of_one_line(message: str, summary: str | None) -> None:
    live = Live({"name": "a"})
    live.live.objects.blocked[A] = (Reason.STARTING, message)
    status = live.task_status(A)
    assert (status["message"], status.get("summary")) == (message, summary)
    reconciling = next(each for each in status["conditions"] if each["type"] == "Reconciling")
    assert reconciling["message"] == message, "whole in the condition"
    whole = live.status()
    assert len(whole.get("summary", whole["message"])) <= MAX_SUMMARY


def test_a_backoff_says_until_when() -> None:
    live = Live({"name": "a", "retry": {"limit": 1, "backoff": {"initial": "1m", "jitter": 0}}})
    live.exited(A, code=3)
    status = live.task_status(A)
    assert (status["reason"], status["nextAttemptAt"]) == ("Backoff", "2024-05-01T12:01:00Z")
    live.settle(now=at(61))
    assert "nextAttemptAt" not in live.task_status(A)
