"""Runs that are cancelled (12), or whose object is deleted, at any time."""

from typing import Any

import pytest
from tests.unit.domain.cases import ALONE, A, B, begun, begun_alone, end_of, failed, gave, reasons, step
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS, Run

from perdure.domain.engine.observed import Observed
from perdure.domain.phases import Phase
from perdure.domain.records import Report, TaskKey


def task_of(run: Run, key: TaskKey = A) -> tuple[str, str | None]:
    task = run.tasks[key]
    return task.phase.value, None if task.reason is None else task.reason.value


def test_a_cancel_stops_everything_at_once() -> None:
    """12: Cancelled, distinct from Failed."""
    run = begun(
        step("a"),
        step("b", retry={"limit": 1}),
        step("c", "a"),
        step("d", wait={"duration": "1h"}),
        step("e", forEach=[1, 2, 3], parallelism=1),
        step("f", repeat={"until": "${false}", "maxIterations": 9}),
    )
    run.started(A)
    run.exited(B, code=1)
    run.reported(TaskKey("e", 0), SUCCESS)
    run.want("Cancelled", now=at(0.5))
    assert end_of(run) == ("Cancelled", "Cancelled")
    assert run.run.message == "the Workflow was cancelled"
    assert set(run.phases().values()) == {"Cancelled"}
    assert set(reasons(run).values()) == {"Cancelled"}
    assert run.attempts[A, 1].closed_at == at(0.5)
    assert run.tasks[TaskKey("e", 0)].phase is Phase.SUCCEEDED
    assert run.tasks[TaskKey("f", 0)].phase is Phase.CANCELLED
    assert run.types()[-1] == "workflow.cancelled"


def test_a_result_that_came_with_the_cancel_is_kept() -> None:
    run = begun(step("a"), step("b", "a"))
    run.desired = "Cancelled"
    run.reported(A, gave("done"))
    assert run.tasks[A].output == "done"
    assert run.phases() == {"a": "Succeeded", "b": "Cancelled"}
    assert end_of(run) == ("Cancelled", "Cancelled")


@pytest.mark.parametrize("seen", ["gone", "failed"])
def test_what_is_lost_as_the_cancel_comes_is_not_replaced(seen: str) -> None:
    run = begun(step("a", retry={"limit": 1}))
    run.desired = "Cancelled"
    if seen == "gone":
        run.gone(A)
    else:
        run.exited(A, code=1)
    assert len(run.attempts) == 1
    assert task_of(run) == ("Cancelled", "Cancelled")


def test_a_cancel_after_a_failure_is_a_cancel() -> None:
    run = begun(step("a"), step("b"))
    run.reported(A, failed())
    run.want("Cancelled")
    assert run.phases() == {"a": "Failed", "b": "Cancelled"}
    assert end_of(run) == ("Cancelled", "Cancelled")


def test_a_cancel_of_a_paused_run() -> None:
    run = begun(step("a"), step("b", retry={"limit": 1}), finally_=(step("f", input="${workflow.phase}"),))
    run.started(A)
    run.exited(B, code=1)
    run.want("Paused", now=at(0.5))
    run.want("Cancelled", now=at(60))
    assert task_of(run, A) == task_of(run, B) == ("Cancelled", "Cancelled")
    assert "workflow.resumed" not in run.types()
    assert run.tasks[TaskKey("f")].input == "Cancelled"
    run.reported(TaskKey("f"), SUCCESS)
    assert end_of(run) == ("Cancelled", "Cancelled")


def test_a_cancel_before_the_start() -> None:
    run = begun(step("a"), step("b", "a"), desired="Cancelled")
    assert run.types() == ["workflow.created", "workflow.cancelled"]
    assert set(run.phases().values()) == {"Cancelled"}
    assert end_of(run) == ("Cancelled", "Cancelled")


@pytest.mark.parametrize("desired", ["Running", "Paused"])
def test_a_cancel_is_final(desired: Any) -> None:
    run = begun(step("a"), finally_=(step("f"),))
    run.want("Cancelled")
    run.want(desired)
    assert run.open == [TaskKey("f")]
    assert run.attempts[TaskKey("f"), 1].stopping is None
    run.reported(TaskKey("f"), SUCCESS)
    assert run.run.phase is Phase.CANCELLED


# --- deletion at any time


@pytest.mark.parametrize("state", ["new", "running", "backoff", "paused", "leaving", "waiting", "limit"])
def test_a_run_is_deleted_at_any_time(state: str) -> None:
    fields: dict[str, Any] = {"wait": {"duration": "1h"}} if state == "waiting" else {"retry": {"limit": 1}}
    run = begun(
        step("a", **fields),
        step("b", "a"),
        desired="Paused" if state == "new" else "Running",
        limit=0 if state == "limit" else None,
    )
    if state not in ("new", "limit", "waiting"):
        run.started(A)
    if state == "backoff":
        run.exited(A, code=1)
    if state in ("paused", "leaving"):
        run.want("Paused")
    if state == "paused":
        run.gone(A)
    run.desired = "Running"
    run.settle(Observed(deleted=True))
    assert end_of(run) == ("Cancelled", "Deleted")
    assert set(reasons(run).values()) == {"Deleted"}
    assert run.open == []


# --- standalone AgentTasks


def test_a_standalone_task_obeys_likewise() -> None:
    run = begun_alone(desired="Paused")
    assert (run.phase, run.types()) == (Phase.PAUSED, [])
    run.want("Running")
    run.started(ALONE)
    run.want("Paused")
    run.exited(ALONE, code=75)
    assert task_of(run, ALONE) == ("Paused", "Paused")
    run.want("Running")
    assert run.tasks[ALONE].attempt == 2
    run.want("Cancelled")
    assert end_of(run) == ("Cancelled", "Cancelled")
    assert run.run.message == "the AgentTask was cancelled"
    assert run.types()[-1] == "task.cancelled"


def test_a_standalone_task_cancelled_before_its_start_says_so_once() -> None:
    run = begun_alone(desired="Cancelled")
    assert run.types() == ["task.cancelled"]
    assert end_of(run) == ("Cancelled", "Cancelled")


@pytest.mark.parametrize(("report", "end"), [(SUCCESS, "Succeeded"), (failed(), "Failed")])
def test_a_standalone_task_that_was_done_when_the_cancel_came_to_be_seen_ends_as_it_did(
    report: Report, end: str
) -> None:
    """Its status is that of its task, and that of its run: they must not say different things."""
    run = begun_alone()
    run.started(ALONE)
    run.desired = "Cancelled"
    run.reported(ALONE, report)
    assert (run.phase, run.tasks[ALONE].phase) == (end, end)
    assert [type for type in run.types() if type.startswith("task.") and type != "task.started"][-1] == (
        f"task.{end.lower()}"
    )
