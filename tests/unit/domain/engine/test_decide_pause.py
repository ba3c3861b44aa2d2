"""Runs that are paused, and go on (23): agents leave in their own time, and no timer runs."""

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.domain.cases import A, B, C, begun, end_of, failed, gave, reasons, step
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import FAILURE, SUCCESS, Run

from perdure.domain.engine.observed import Observed
from perdure.domain.engine.outcome import LOST_AFTER
from perdure.domain.engine.pod_facts import ContainerExit
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey


def running(**fields: Any) -> Run:
    """A run whose only step runs."""
    run = begun(step("a", **fields))
    run.started(A)
    return run


def task_of(run: Run, key: TaskKey = A) -> tuple[str, str | None]:
    task = run.tasks[key]
    return task.phase.value, None if task.reason is None else task.reason.value


# --- pausing


def test_a_pause_asks_agents_to_leave_and_waits_for_them() -> None:
    """23: so that they can save a checkpoint, or even finish."""
    run = running()
    run.want("Paused", now=at(5))
    assert (run.phase, run.run.paused_at, run.run.reason) == (Phase.PAUSED, at(5), Reason.PAUSED)
    (attempt,) = run.attempts_of(A)
    assert (attempt.stopping, attempt.closed_at) == (Reason.PAUSED, None)
    assert task_of(run) == ("Running", None), "it still runs"
    run.gone(A)
    (attempt,) = run.attempts_of(A)
    assert (attempt.outcome, attempt.reason) == (Phase.CANCELLED, Reason.PAUSED)
    assert task_of(run) == ("Paused", "Paused")
    assert run.requeue_at is None
    assert run.types()[-1] == "workflow.paused"


@pytest.mark.parametrize(
    "facts",
    [
        {"exit": ContainerExit(code=75, reason="", message="")},
        {"exit": ContainerExit(code=143, reason="Error", message="")},
        {"exit": ContainerExit(code=137, reason="Error", message="")},
        {"exit": ContainerExit(code=1, reason="Error", message="")},
        # Without a message, an exit with 0 does not prove that the agent had finished (25).
        {"exit": ContainerExit(code=0, reason="Completed", message="")},
        {"exit": ContainerExit(code=143, reason="Error", message=""), "disruption": "Evicted"},
        {"phase": "Failed", "started_at": None},
    ],
)
def test_leaving_for_a_pause_spends_nothing(facts: dict[str, Any]) -> None:
    """23: it counts as neither a retry nor a disruption."""
    run = running(disruptions={"limit": 0})
    run.want("Paused")
    run.settle(Observed(pods={A: run.pod(A, deletion=at(30), **facts)}))
    assert task_of(run) == ("Paused", "Paused")
    task = run.tasks[A]
    assert (task.retries, task.disruptions, task.last_failure) == (0, 0, None)
    run.want("Running")
    assert (run.tasks[A].attempt, run.open) == (2, [A])


@pytest.mark.parametrize("by", ["report", "message"])
def test_a_result_within_the_grace_counts(by: str) -> None:
    """23."""
    run = begun(step("a"), step("b", "a"))
    run.started(A)
    run.want("Paused")
    if by == "report":
        run.reported(A, gave("done"))
    else:
        ends = ContainerExit(code=0, reason="Completed", message="done")
        run.settle(Observed(pods={A: run.pod(A, deletion=at(30), exit=ends)}))
    assert run.tasks[A].output == "done"
    assert run.phases() == {"a": "Succeeded"}, "nothing starts in a pause"
    run.want("Running")
    assert run.open == [B]


def test_an_agents_own_report_of_a_failure_counts_in_a_pause() -> None:
    """23: it is no answer to our request."""
    run = running(retry={"limit": 1})
    run.want("Paused", now=at(10))
    run.now = at(12)
    run.settle(Observed(reports={A: (1, FAILURE)}))
    task = run.tasks[A]
    assert (task.phase, task.retries, task.reason) == (Phase.PAUSED, 1, Reason.PAUSED)
    assert run.events[-1].type == "task.retrying"
    assert "retryAt" not in run.events[-1].data, "the time of the retry is not known in a pause"
    run.want("Running", now=at(500))
    delay = run.tasks[A].retry_at - at(500)
    assert timedelta(seconds=0.9) <= delay <= timedelta(seconds=1.1), "the whole delay is left"
    run = running()
    run.want("Paused")
    run.reported(A, failed())
    assert end_of(run) == ("Failed", "AgentFailure")
    assert run.run.paused_at is None


def test_what_was_seen_together_with_the_wish_had_happened_before_it() -> None:
    """22, 23: the failure counts, and is no answer to a request to stop that was not made yet."""
    run = running(retry={"limit": 1})
    run.desired = "Paused"
    run.exited(A, code=1)
    assert (run.tasks[A].retries, task_of(run)) == (1, ("Paused", "Paused"))
    run = running()
    run.desired = "Paused"
    run.gone(A)
    assert (run.tasks[A].disruptions, run.tasks[A].attempt) == (1, 1), "and no attempt is begun in vain"
    assert task_of(run) == ("Paused", "Paused")


def test_pods_that_are_not_noted_have_nothing_to_save() -> None:
    """The gateway had not admitted their agents yet."""
    run = begun(step("a"), step("b"))
    run.notes_pods = False
    run.gone(A)
    run.want("Paused")
    assert run.open == [B]
    assert task_of(run) == ("Paused", "Paused")
    assert run.attempts[A, 2].outcome is Phase.CANCELLED
    run.want("Running")
    assert run.attempts[A, 3].closed_at is None


def test_a_run_paused_before_it_started() -> None:
    run = begun(step("a"), timeout="10s", desired="Paused")
    assert (run.phase, run.steps, run.run.started_at) == (Phase.PAUSED, {}, None)
    assert run.types() == ["workflow.created", "workflow.paused"]
    run.want("Running", now=at(60))
    assert run.types()[2:] == ["workflow.resumed", "workflow.started", "task.scheduled"]
    assert run.run.started_at == at(60)


def test_a_pause_holds_back_all_steps_without_a_decision() -> None:
    run = begun(
        step("a", forEach=[1, 2, 3], parallelism=1), step("b", "a"), finally_=(step("f"),), desired="Running"
    )
    run.want("Paused")
    run.reported(TaskKey("a", 0), SUCCESS)
    assert sorted(run.tasks) == [TaskKey("a", 0)]
    assert run.phases() == {"a": "Running"}
    run.want("Running")
    assert run.open == [TaskKey("a", 1)]


def test_a_run_whose_last_agent_finishes_in_a_pause_has_ended() -> None:
    run = running()
    run.want("Paused")
    run.reported(A, SUCCESS)
    assert end_of(run) == ("Succeeded", None)
    assert run.run.paused_at is None


def test_a_pause_before_finally_steps_holds_them_back() -> None:
    run = begun(step("a"), finally_=(step("f"),))
    run.want("Paused")
    run.reported(A, SUCCESS)
    assert (run.phase, run.phases()) == (Phase.PAUSED, {"a": "Succeeded"})
    run.want("Running")
    assert run.open == [TaskKey("f")]


def test_a_pause_in_finally_steps() -> None:
    run = begun(step("a"), finally_=(step("f"),))
    run.reported(A, failed())
    key = TaskKey("f")
    run.started(key)
    run.want("Paused")
    run.gone(key)
    assert task_of(run, key) == ("Paused", "Paused")
    run.want("Running")
    run.reported(key, SUCCESS)
    assert end_of(run) == ("Failed", "AgentFailure")


def test_what_fails_in_a_pause_does_not_start_the_rest_afterwards() -> None:
    """10."""
    run = begun(step("a"), step("b"), step("c", "b"))
    run.started(A, B)
    run.want("Paused")
    run.settle(Observed(reports={A: (1, failed())}, gone=frozenset({B})))
    run.want("Running")
    assert run.open == [B], "what had been running goes on"
    run.reported(B, SUCCESS)
    assert reasons(run)["c"] == "WorkflowFailed"


def test_cancel_running_applies_in_a_pause() -> None:
    """10."""
    run = begun(step("a"), step("b"), failurePolicy="CancelRunning")
    run.started(A, B)
    run.want("Paused")
    run.reported(A, failed())
    assert end_of(run) == ("Failed", "AgentFailure")
    assert task_of(run, B) == ("Cancelled", "WorkflowFailed")


def test_repeating_a_wish_says_nothing_new() -> None:
    run = running()
    run.want("Paused")
    assert run.decide().commit is None
    run.want("Running")
    assert run.decide().commit is None


def test_a_lost_node_is_noticed_in_a_pause() -> None:
    run = running()
    run.want("Paused")
    leaving = Observed(pods={A: run.pod(A, deletion=at(30), started_at=START)})
    decision = run.decide(leaving)
    assert decision.requeue_at == at(30) + LOST_AFTER
    run.settle(leaving, now=decision.requeue_at)
    assert task_of(run) == ("Paused", "Paused")


# --- timers stand still (23)


def test_backoff_stands_still() -> None:
    run = running(retry={"limit": 1, "backoff": {"initial": "10s", "jitter": 0}})
    run.exited(A, code=1)
    run.want("Paused", now=at(4))
    assert task_of(run) == ("Paused", "Paused")
    run.settle(now=at(3600))
    assert run.open == []
    run.want("Running", now=at(3604))
    assert (task_of(run), run.tasks[A].retry_at) == (("Pending", "Backoff"), at(3610))
    assert run.requeue_at == at(3610)


def test_the_runs_deadline_stands_still() -> None:
    run = begun(step("a"), timeout="10s")
    run.want("Paused", now=at(4))
    assert run.requeue_at is None
    run.settle(now=at(3600))
    assert run.phase is Phase.PAUSED
    run.want("Running", now=at(3604))
    assert run.run.deadline_at == at(3610)
    run.settle(now=at(3610))
    assert end_of(run) == ("Failed", "Timeout")


def test_a_deadline_that_was_over_before_the_pause_is_not_forgiven() -> None:
    run = begun(step("a"), timeout="10s", finally_=(step("f"),))
    run.want("Paused", now=at(11))
    assert run.run.stop is Reason.TIMEOUT
    assert run.phases() == {"a": "Cancelled"}
    run.want("Running", now=at(60))
    run.reported(TaskKey("f"), SUCCESS)
    assert end_of(run) == ("Failed", "Timeout")


@pytest.mark.parametrize("field", ["timeout", "pendingTimeout", "idleTimeout"])
def test_timeouts_of_attempts_do_not_run_while_they_leave(field: str) -> None:
    run = begun(step("a", **{field: "10s"}))
    if field != "pendingTimeout":
        run.started(A)
    run.want("Paused", now=at(5))
    run.settle(now=at(3600))
    assert run.open == [A]
    run.want("Running")
    assert run.requeue_at is None, "still leaving, it has no time that could be over"
    run.settle(now=at(7200))
    run.gone(A)
    assert (run.tasks[A].attempt, run.tasks[A].retries) == (2, 0)


def test_a_timeout_that_is_over_when_the_pause_comes_is_one() -> None:
    run = running(timeout="10s")
    run.want("Paused", now=at(10))
    assert end_of(run) == ("Failed", "Timeout")


def test_a_wait_for_a_duration_stands_still_and_one_for_a_moment_does_not() -> None:
    run = begun(
        step("a", wait={"duration": "10s"}),
        step("b", wait={"until": "2024-05-01T12:00:10Z"}),
        step("c", wait={"until": "2024-05-01T13:00:00Z"}),
    )
    run.want("Paused", now=at(4))
    assert [task_of(run, key) for key in (A, B, C)] == [("Paused", "Paused")] * 3
    run.settle(now=at(100))
    run.want("Running", now=at(104))
    assert [task_of(run, key) for key in (A, B, C)] == [
        ("Running", "Waiting"),
        ("Succeeded", None),
        ("Running", "Waiting"),
    ]
    assert [run.tasks[key].retry_at for key in (A, C)] == [at(110), at(3600)]


def test_several_pauses_add_up() -> None:
    run = begun(step("a", wait={"duration": "10s"}), timeout="1m")
    for start in (2, 100, 200):
        run.want("Paused", now=at(start))
        run.want("Running", now=at(start + 50))
    # Two seconds before the first pause, 48 between it and the next: the wait is over.
    assert end_of(run) == ("Succeeded", None)
    run = begun(step("a", wait={"duration": "100s"}), timeout="200s")
    run.want("Paused", now=at(2))
    run.want("Running", now=at(52))
    run.want("Paused", now=at(60))
    run.want("Running", now=at(100))
    assert (run.tasks[A].retry_at, run.run.deadline_at) == (at(190), at(290))
    resumed = [event.data["pausedSeconds"] for event in run.events if event.type == "workflow.resumed"]
    assert resumed == [50, 40]


# --- resuming


def test_a_resume_goes_on_where_the_run_was() -> None:
    run = running()
    run.want("Paused")
    run.gone(A)
    run.want("Running", now=at(60))
    assert (run.phase, run.run.paused_at, run.run.reason) == (Phase.RUNNING, None, None)
    task = run.tasks[A]
    assert (task.attempt, task_of(run), task.started_at) == (2, ("Pending", "Starting"), START)
    assert run.types()[-2:] == ["workflow.resumed", "task.scheduled"]


def test_a_resume_while_an_agent_still_leaves_lets_it_leave() -> None:
    """The agent was asked to leave; then the next attempt goes on from the checkpoint."""
    run = running()
    run.want("Paused")
    run.want("Running")
    assert run.attempts[A, 1].stopping is Reason.PAUSED
    assert run.open == [A]
    run.exited(A, code=75)
    assert (run.tasks[A].attempt, run.tasks[A].disruptions) == (2, 0)
    assert run.attempts[A, 2].stopping is None


def test_a_pause_again_while_an_agent_still_leaves() -> None:
    run = running()
    for desired in ("Paused", "Running", "Paused"):
        run.want(desired)  # type: ignore[arg-type]
    run.gone(A)
    assert task_of(run) == ("Paused", "Paused")
    assert run.types().count("workflow.paused") == 2
