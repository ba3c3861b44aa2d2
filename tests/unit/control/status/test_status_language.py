"""What statuses say of pauses, cancels, waits, loops, children, limits and cached results."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.control.lives import Live, condition, conditions
from tests.unit.domain.clock import at
from tests.unit.domain.runs import FATAL, SUCCESS

from perdure.api.status import AgentTaskStatus, WorkflowStatus
from perdure.domain.engine.observed import Observed
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, Report, TaskKey

A, B = TaskKey("a"), TaskKey("b")
PAUSED = Observed(desired="Paused")
CANCELLED = Observed(desired="Cancelled")


def step(name: str, *needed: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "dependsOn": list(needed), **fields}


def shown(status: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [step for step in status["steps"] if step["name"] == name]
    return dict(found)


# --- pause


def test_a_pause_says_how_many_pods_still_leave_and_then_that_it_is_paused() -> None:
    live = Live(step("a", forEach=[1, 2]), step("b", "a"))
    keys = [TaskKey("a", 0), TaskKey("a", 1)]
    live.made(*keys)
    live.started(*keys)
    live.settle(PAUSED)
    status = live.status()
    assert status["phase"] == "Paused"
    reconciling = condition(status, "Reconciling")
    assert (reconciling["status"], reconciling["reason"]) == ("True", "Paused")
    assert reconciling["message"] == "paused; 2 pods still to leave" == status["message"]
    assert condition(status, "Ready")["status"] == "False"
    assert (shown(status, "a")["phase"], shown(status, "a")["reason"]) == ("Running", "Paused")
    assert shown(status, "a")["message"] == "2 tasks still to leave"
    task = live.task_status(keys[0])
    assert (task["phase"], task["reason"]) == ("Running", "Paused")
    assert task["message"] == "its agent was asked to save a checkpoint and leave"

    pods = {key: live.pod(key, phase="Failed") for key in keys[:1]}
    live.settle(replace(PAUSED, pods=pods))
    assert live.status()["message"] == "paused; 1 pod still to leave"
    live.settle(replace(PAUSED, gone=frozenset(keys[1:])))
    status = live.status()
    assert status["message"] == "paused" == condition(status, "Reconciling")["message"]
    assert shown(status, "a") == {
        "name": "a",
        "phase": "Paused",
        "reason": "Paused",
        "message": "paused",
        "tasks": {"total": 2, "paused": 2},
    }
    # It would not start if the run went on: that is the more exact answer.
    assert shown(status, "b")["reason"] == "Dependency"
    assert (live.task_status(keys[0])["phase"], live.task_status(keys[0])["reason"]) == ("Paused", "Paused")
    WorkflowStatus.model_validate(status)
    AgentTaskStatus.model_validate(live.task_status(keys[0]))


def test_after_a_pause_it_is_as_before() -> None:
    live = Live(step("a"))
    live.settle(PAUSED)
    assert live.status()["phase"] == "Paused"
    live.settle(Observed())
    status = live.status()
    assert (status["phase"], condition(status, "Reconciling")["reason"]) == ("Running", "Starting")


def test_a_run_that_is_paused_before_it_starts() -> None:
    live = Live(step("a"), step("b", "a"), settle=False)
    live.settle(PAUSED)
    status = live.status()
    assert (status["phase"], status["message"]) == ("Paused", "paused")
    assert [(each["phase"], each["reason"]) for each in status["steps"]] == [
        ("Pending", "Paused"),
        ("Pending", "Dependency"),
    ]


def test_a_standalone_task_is_paused() -> None:
    live = Live(name="alone")
    live.settle(PAUSED)
    status = live.task_status(TaskKey(""))
    assert (status["phase"], status["reason"]) == ("Paused", "Paused")
    assert conditions(status)["Reconciling"] == ("True", "Paused")


# --- cancel and timeout


def test_a_cancelled_run_is_failed_and_not_complete() -> None:
    """Ruling 12."""
    live = Live(step("a"), step("b", "a"))
    live.made(A)
    live.started(A)
    live.settle(CANCELLED)
    status = live.status()
    assert status["phase"] == "Cancelled"
    found = conditions(status)
    assert found["Failed"] == ("True", "Cancelled")
    assert found["Complete"] == ("False", "Cancelled")
    assert found["Ready"] == ("False", "Cancelled")
    assert {each["phase"] for each in status["steps"]} == {"Cancelled"}
    assert conditions(live.task_status(A))["Failed"] == ("True", "Cancelled")


def test_what_still_runs_of_a_cancelled_run_is_named() -> None:
    fields: dict[str, Any] = {"finally": [step("notify")]}
    live = Live(step("a"), **fields)
    live.started(A)
    assert shown(live.status(), "notify") == {
        "name": "notify",
        "phase": "Pending",
        "reason": "Dependency",
        "message": "waits for a",
    }
    assert live.status()["progress"] == "0/2"
    live.settle(CANCELLED)
    live.settle(replace(CANCELLED, pods={TaskKey("notify"): live.pod(TaskKey("notify"))}))
    status = live.status()
    assert (status["phase"], status["message"]) == ("Running", "is being cancelled; running: notify")
    assert [each["name"] for each in status["steps"]] == ["a", "notify"]
    assert status["progress"] == "1/2"


def test_a_run_whose_time_is_over() -> None:
    live = Live(step("a"), timeout="1m")
    live.started(A)
    live.settle(now=at(61))
    status = live.status()
    assert (status["phase"], conditions(status)["Failed"]) == ("Failed", ("True", "Timeout"))
    assert (shown(status, "a")["phase"], shown(status, "a")["reason"]) == ("Cancelled", "WorkflowTimeout")


# --- kinds of steps


def test_a_wait_says_until_when() -> None:
    live = Live(step("a", wait={"duration": "90s"}))
    status = live.status()
    assert shown(status, "a") == {
        "name": "a",
        "phase": "Running",
        "reason": "Waiting",
        "message": "until 2024-05-01T12:01:30Z",
        "tasks": {"total": 1, "running": 1},
    }
    reconciling = condition(status, "Reconciling")
    assert reconciling["reason"] == "Waiting"
    # A wait has no AgentTask whose name would help.
    assert reconciling["message"] == "a: until 2024-05-01T12:01:30Z"


def test_a_run_with_a_running_agent_and_a_wait_is_not_waiting() -> None:
    live = Live(step("a", wait={"duration": "90s"}), step("b"))
    live.started(B)
    status = live.status()
    assert condition(status, "Reconciling")["reason"] == "Running"
    assert status["message"] == "running: a, b"


def test_a_child_workflow_is_shown_by_its_own_status() -> None:
    live = Live(step("a", workflow={"templateRef": "t", "inputs": {}}))
    live.made(A)
    name = live.view.attempts[A].pod_name
    assert shown(live.status(), "a")["message"] == f"{name} is being started"
    live.children[name] = {"phase": "Pending", "message": "waits for a template"}
    assert shown(live.status(), "a")["message"] == f"{name}: Pending: waits for a template"
    live.children[name] = {"phase": "Running", "progress": "3/10", "message": "running: x"}
    live.view.tasks[A] = replace(live.view.tasks[A], phase=Phase.RUNNING, reason=None)
    assert shown(live.status(), "a")["message"] == f"{name}: Running 3/10: running: x"


def test_a_loop_counts_its_iterations_and_is_one_piece_of_work() -> None:
    live = Live(step("a", repeat={"until": "${last.n == 3}", "maxIterations": 5}), step("b", "a"))
    live.started(TaskKey("a", 0))
    status = live.status()
    assert shown(status, "a")["message"] == "iteration 1 of at most 5"
    assert status["progress"] == "0/2"
    live.reported(TaskKey("a", 0), SUCCESS)
    live.started(TaskKey("a", 1))
    status = live.status()
    assert shown(status, "a")["message"] == "iteration 2 of at most 5"
    assert shown(status, "a")["tasks"] == {"total": 2, "succeeded": 1, "running": 1}
    assert status["progress"] == "0/2"
    live.reported(TaskKey("a", 1), Report(outcome="Succeeded", output=payload_of({"n": 3}), at=at(0)))
    assert live.status()["progress"] == "1/2"


def test_a_loop_says_what_its_iteration_waits_for() -> None:
    live = Live(step("a", repeat={"until": "${last.n == 3}", "maxIterations": 5}))
    live.see(TaskKey("a", 0), phase="Pending", started_at=None, unschedulable="no node")
    assert (shown(live.status(), "a")["reason"], shown(live.status(), "a")["message"]) == (
        "Unschedulable",
        "no node",
    )


def test_a_cached_result_is_visible() -> None:
    live = Live(step("a", cache={"key": "k"}), settle=False)
    decision = live.decide()
    found = CachedResult(output=payload_of({"n": 1}), workflow="earlier", task="earlier-a-abcde")
    live.settle(Observed(cached=dict.fromkeys(decision.questions, found)))
    status = live.status()
    assert (status["phase"], status["attempts"]) == ("Succeeded", 0)
    assert shown(status, "a") == {
        "name": "a",
        "phase": "Succeeded",
        "reason": "Cached",
        "message": "the result of task earlier-a-abcde of earlier",
        "tasks": {"total": 1, "succeeded": 1},
    }


# --- limits and dependencies


def test_a_steps_own_parallelism() -> None:
    live = Live(step("a", forEach=[1, 2, 3, 4], parallelism=1), parallelism=3)
    live.started(TaskKey("a", 0))
    said = shown(live.status(), "a")
    assert (said["reason"], said["message"]) == ("Parallelism", "3 tasks wait: the step's parallelism 1")


def test_a_limit_across_runs() -> None:
    live = Live(step("a", forEach=[1, 2, 3, 4]), settle=False)
    live.settle(Observed(slots=1))
    status = live.status()
    said = shown(status, "a")
    assert said["reason"] == "Limit"
    assert said["message"].startswith("3 tasks wait: the limit of tasks that may run at once")
    # The one that has its slot is what the run waits for.
    assert condition(status, "Reconciling")["reason"] == "Starting"
    live.settle(Observed(slots=0, reports={TaskKey("a", 0): (1, SUCCESS)}))
    status = live.status()
    assert condition(status, "Reconciling")["reason"] == "Limit"
    assert "the limit of tasks that may run at once" in status["message"]
    assert shown(status, "a")["message"].startswith("3 tasks wait: the limit")


def test_a_run_that_waits_for_its_first_slot() -> None:
    live = Live(step("a"), settle=False)
    live.settle(Observed(slots=0))
    status = live.status()
    assert condition(status, "Reconciling")["reason"] == "Limit"
    assert shown(status, "a")["reason"] == "Limit"


def test_what_is_never_started_waits_for_nothing() -> None:
    live = Live(step("a", forEach=[1, 2, 3, 4]), parallelism=2)
    live.started(TaskKey("a", 0), TaskKey("a", 1))
    assert shown(live.status(), "a")["reason"] == "Parallelism"
    live.reported(TaskKey("a", 0), FATAL)
    said = shown(live.status(), "a")
    assert said == {
        "name": "a",
        "phase": "Running",
        "tasks": {"total": 4, "running": 1, "failed": 1},
    }


@pytest.mark.parametrize(
    ("needed", "message"),
    [
        (["a"], "waits for a"),
        (["a", "b", "c"], "waits for a, b, c"),
        (["a", "b", "c", "d"], "waits for a, b, c and others"),
    ],
)
def test_which_steps_a_step_waits_for(needed: list[str], message: str) -> None:
    live = Live(*(step(name) for name in "abcd"), step("z", *needed))
    assert shown(live.status(), "z")["message"] == message


def test_only_dependencies_that_have_not_ended_are_named() -> None:
    live = Live(step("a"), step("b"), step("z", "a", "b"))
    live.reported(A, SUCCESS)
    assert shown(live.status(), "z")["message"] == "waits for b"


def test_a_fan_out_of_which_nothing_runs_says_why() -> None:
    live = Live(step("a", forEach=[1, 2]), step("b"))
    live.started(B)
    first = TaskKey("a", 0)
    live.see(first, phase="Pending", started_at=None, unschedulable="no node")
    assert shown(live.status(), "a")["reason"] == "Unschedulable"
    live.started(first)
    assert "reason" not in shown(live.status(), "a")


# --- the last failure


def test_a_task_shows_why_its_last_attempt_failed() -> None:
    live = Live(step("a", retry={"limit": 2}))
    live.exited(A, code=3)
    status = live.task_status(A)
    assert status["lastFailure"] == {
        "attempt": 1,
        "reason": "ExitCode",
        "message": "exit code 3",
        "exitCode": 3,
    }
    AgentTaskStatus.model_validate(status)
    live.settle(now=at(60))
    live.reported(A, FATAL)
    assert live.task_status(A)["lastFailure"] == {
        "attempt": 2,
        "reason": "AgentFailure",
        "message": "no hope",
    }


def test_a_job_is_shown_by_the_name_of_its_pod() -> None:
    live = Live(step("a"))
    live.see(A, generated_name="audit-a-1-x7k2p")
    assert live.task_status(A)["podName"] == "audit-a-1-x7k2p"
    live.pods.clear()
    assert live.task_status(A)["podName"] == live.view.attempts[A].pod_name


def test_waiting_reasons_are_of_the_closed_set() -> None:
    live = Live(step("a", forEach=[1, 2]), step("b", "a"), parallelism=1)
    for observed in (Observed(), PAUSED, Observed()):
        live.settle(observed)
        words = {each["reason"] for each in live.status()["steps"] if "reason" in each}
        assert words <= {reason.value for reason in Reason}
