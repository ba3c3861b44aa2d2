"""When a failed attempt is followed by another (22, 26), and how many disruptions are tolerated (23)."""

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.domain.cases import BAD_CONDITIONS, A, B, begun, begun_alone, end_of, failed, gave, step
from tests.unit.domain.clock import at
from tests.unit.domain.runs import FAILURE, FATAL, SUCCESS

from perdure.domain.engine.observed import Observed
from perdure.domain.engine.pod_facts import ContainerExit
from perdure.domain.engine.retry import Backoff, backoff
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey


@pytest.mark.parametrize(
    ("given", "delays"),
    [
        ({}, [1, 2, 4]),
        ({"initial": "10s"}, [10, 20, 40]),
        ({"factor": 1, "initial": "3s"}, [3, 3, 3]),
        ({"factor": 10, "max": "50s"}, [1, 10, 50]),
        ({"initial": "2m", "max": "1m"}, [60, 60, 60]),
        ({"initial": "0s"}, [0, 0, 0]),
    ],
)
def test_delays_follow_the_steps_own_backoff(given: dict[str, Any], delays: list[float]) -> None:
    """22."""
    run = begun(step("a", retry={"limit": 3, "backoff": {"jitter": 0, **given}}))
    for number, seconds in enumerate(delays, start=1):
        run.exited(A, code=1)
        if seconds:
            assert run.tasks[A].retry_at == run.moment(seconds)
            assert run.requeue_at == run.moment(seconds)
            run.settle(now=run.moment(seconds))
        assert run.tasks[A].attempt == number + 1


def test_jitter_of_the_steps_own_backoff() -> None:
    """22."""
    policy = Backoff(initial=10, jitter=0.5)
    run = begun(step("a", retry={"limit": 1, "backoff": {"initial": "10s", "jitter": 0.5}}))
    run.exited(A, code=1)
    due = run.tasks[A].retry_at
    assert due == run.now + backoff(run.run.uid, A, 1, policy)
    assert timedelta(seconds=5) <= due - run.now <= timedelta(seconds=15)


@pytest.mark.parametrize(
    ("condition", "again"),
    [
        ("${attempt.exitCode != 2}", False),
        ("${attempt.exitCode == 2}", True),
        ("${attempt.reason == 'ExitCode'}", True),
        ("${attempt.message.contains('disk')}", True),
        ("${attempt.number < 2}", True),
        ("${attempt.number > 1}", False),
        ("${attempt.disruptions == 0}", True),
        ("${inputs.again && item == 'x' && index == 0}", True),
        ("${steps.b.output == 1}", True),
        ("${workflow.name == 'audit'}", True),
    ],
)
def test_retry_on_decides(condition: str, again: bool) -> None:
    """26: over the attempt's number, exit code, reason, message and disruptions, and the task's own names."""
    run = begun(
        step("a", forEach=["x"], retry={"limit": 5, "on": condition}), step("b"), inputs={"again": True}
    )
    run.reported(B, gave(1))
    key = TaskKey("a", 0)
    run.exited(key, code=2, message="disk full")
    task = run.tasks[key]
    if again:
        assert (task.phase, task.reason, task.retries) == (Phase.PENDING, Reason.BACKOFF, 1)
    else:
        assert (task.phase, task.reason, task.retries) == (Phase.FAILED, Reason.EXIT_CODE, 0)


def test_retry_on_is_evaluated_for_each_attempt() -> None:
    """26."""
    run = begun(step("a", retry={"limit": 5, "on": "${attempt.number + attempt.disruptions < 4}"}))
    run.gone(A)
    run.exited(A, code=1)
    run.settle(now=at(10))
    assert run.tasks[A].attempt == 3
    run.exited(A, code=1)
    assert (run.tasks[A].phase, run.tasks[A].retries) == (Phase.FAILED, 1)


def test_what_no_exit_code_came_with_is_null() -> None:
    """26."""
    run = begun(
        step("a", retry={"limit": 1, "on": "${attempt.exitCode == null && attempt.reason == 'Timeout'}"}),
        step("b"),
    )
    run.reported(A, FAILURE)
    assert run.tasks[A].phase is Phase.FAILED
    run = begun(step("a", timeout="5s", retry={"limit": 1, "on": "${attempt.exitCode == null}"}))
    run.started(A)
    run.settle(now=at(5))
    assert run.tasks[A].reason is Reason.BACKOFF


@pytest.mark.parametrize(("condition", "message"), BAD_CONDITIONS)
def test_a_retry_on_that_is_no_condition_fails_the_task(condition: str, message: str) -> None:
    run = begun(step("a", retry={"limit": 1, "on": condition}))
    run.exited(A, code=3)
    assert end_of(run) == ("Failed", "ExpressionError")
    assert run.tasks[A].message == f"retry.on: {message}, when the attempt had failed: exit code 3"
    assert (run.tasks[A].retries, run.tasks[A].exit_code) == (0, 3)


def test_retry_on_is_not_asked_when_it_cannot_matter() -> None:
    for fields in ({"limit": 0, "on": "${3}"}, {"limit": 1, "on": "${3}"}):
        run = begun(step("a", retry=fields))
        run.reported(A, FATAL if fields["limit"] else FAILURE)
        assert run.tasks[A].reason is Reason.AGENT_FAILURE


def test_an_agent_that_says_not_retryable_wins() -> None:
    """26: over a limit that is left, and an expression that would allow it."""
    run = begun(step("a", retry={"limit": 5, "on": "${true}"}))
    run.reported(A, FATAL)
    assert (run.tasks[A].phase, run.tasks[A].retries) == (Phase.FAILED, 0)


def test_disruptions_are_not_asked_about() -> None:
    """23, 26: they spend another budget."""
    run = begun(step("a", retry={"limit": 0, "on": "${false}"}))
    run.gone(A)
    assert run.tasks[A].attempt == 2


def test_a_task_keeps_the_last_failure_for_its_next_attempt() -> None:
    run = begun(step("a", retry={"limit": 2}))
    assert run.tasks[A].last_failure is None
    run.exited(A, code=7, message="disk full")
    run.settle(now=at(10))
    assert run.tasks[A].last_failure == {
        "attempt": 1,
        "reason": "ExitCode",
        "message": "exit code 7: disk full",
        "exitCode": 7,
    }
    run.gone(A)
    assert run.tasks[A].last_failure == {
        "attempt": 2,
        "reason": "Disrupted",
        "message": "the pod was deleted from outside",
        "exitCode": None,
    }
    run.reported(A, SUCCESS)
    assert run.tasks[A].exit_code == 0


def test_attempts_of_a_step_count_disruptions_and_pauses_too() -> None:
    """22."""
    run = begun(step("a", retry={"limit": 1}), step("b", input="${steps.a.attempts}"))
    run.gone(A)
    run.exited(A, code=1)
    run.settle(now=at(10))
    run.want("Paused")
    run.gone(A)
    run.want("Running")
    run.reported(A, SUCCESS)
    assert run.tasks[B].input == 4


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_steps_own_limit_of_disruptions(limit: int) -> None:
    """23: one more fails the task, and falls back on no retry."""
    run = begun(step("a", disruptions={"limit": limit}, retry={"limit": 5}))
    for number in range(1, limit + 2):
        assert run.tasks[A].attempt == number
        run.gone(A)
        run.settle(now=run.tasks[A].retry_at)
    assert end_of(run) == ("Failed", "DisruptionLimit")
    assert run.tasks[A].message == (
        f"{limit + 1} disruptions, the limit is {limit}; last: the pod was deleted from outside"
    )
    assert run.tasks[A].retries == 0


def test_a_disruption_limit_of_a_tolerated_step_fails_it_only() -> None:
    run = begun(step("a", disruptions={"limit": 0}, continueOnFailure=True), step("b", "a"))
    run.gone(A)
    assert run.open == [B]


def test_an_agent_without_a_result_has_failed_if_one_is_required() -> None:
    """25."""
    required = {"image": "agent", "result": "Required"}
    run = begun(step("a", agent=required, retry={"limit": 1}))
    run.exited(A)
    assert run.tasks[A].last_failure is not None
    assert (run.tasks[A].reason, run.tasks[A].last_failure["reason"]) == (Reason.BACKOFF, "NoResult")
    run.settle(now=at(10))
    run.exited(A, message="done")
    assert end_of(run) == ("Succeeded", None)
    run = begun(step("a", agent=required))
    exited = run.pod(A, exit=ContainerExit(code=0, reason="Completed", message=""))
    run.settle(Observed(pods={A: exited}, reports={A: (1, gave(None))}))
    assert end_of(run) == ("Succeeded", None)
    run = begun(step("a", agent=required | {"result": "Optional"}))
    run.exited(A)
    assert end_of(run) == ("Succeeded", None)


def test_a_standalone_task_retries_likewise() -> None:
    key = TaskKey("")
    run = begun_alone(retry={"limit": 1, "on": "${attempt.exitCode != 2}"}, disruptions={"limit": 0})
    run.exited(key, code=1)
    run.settle(now=at(10))
    run.exited(key, code=2)
    assert end_of(run) == ("Failed", "ExitCode")


def test_a_failure_while_the_run_is_failing_is_retried_all_the_same() -> None:
    """10: running tasks keep their retries, and their replacements."""
    run = begun(step("a"), step("b", retry={"limit": 1}))
    run.reported(A, failed())
    run.gone(B)
    run.exited(B, code=1)
    run.settle(now=at(10))
    run.reported(B, SUCCESS)
    assert (run.tasks[B].attempt, run.tasks[B].phase) == (3, Phase.SUCCEEDED)
    assert end_of(run) == ("Failed", "AgentFailure")
