"""Limits that many runs share (21): attempts start only in slots, and what is wanted is what would start."""

import pytest
from tests.unit.domain.cases import A, B, C, begun, begun_alone, end_of, failed, phases_of, reasons, step
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS

from perdure.domain.engine.observed import Observed
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey

TEXT = "the limit of tasks that may run at once in the namespace or in all is used up"


def key(index: int) -> TaskKey:
    return TaskKey("a", index)


def fan(count: int, **fields: object) -> dict[str, object]:
    return step("a", forEach=list(range(count)), **fields)


def test_without_a_slot_nothing_starts_and_it_says_why() -> None:
    run = begun(step("a"), limit=0)
    task = run.tasks[A]
    assert (task.phase, task.reason, task.message, task.attempt) == (Phase.PENDING, Reason.LIMIT, TEXT, 0)
    record = run.steps["a"]
    assert (record.phase, record.reason, record.started_at) == (Phase.PENDING, Reason.LIMIT, None)
    assert (run.wants, run.requeue_at, run.attempts) == (1, None, {})
    run.limit = 1
    run.settle(now=at(9))
    assert run.open == [A]
    record = run.steps["a"]
    assert (record.phase, record.reason, record.message) == (Phase.RUNNING, None, "")
    assert record.started_at == at(9)
    assert run.wants == 0


@pytest.mark.parametrize(
    ("limit", "opened", "made", "wants"),
    [(None, 5, 5, 0), (5, 5, 5, 0), (9, 5, 5, 0), (3, 3, 4, 2), (1, 1, 2, 4), (0, 0, 1, 5)],
)
def test_as_many_start_as_there_are_slots(limit: int | None, opened: int, made: int, wants: int) -> None:
    """One task more shows that the step waits; the others are not made before they can start."""
    run = begun(fan(5), limit=limit)
    assert (len(run.open), len(run.tasks), run.wants) == (opened, made, wants)


def test_a_slot_that_becomes_free_goes_to_the_next() -> None:
    run = begun(fan(4), limit=1)
    for index in range(4):
        assert run.open == [key(index)]
        run.reported(key(index), SUCCESS)
    assert end_of(run) == ("Succeeded", None)


@pytest.mark.parametrize(
    ("parallelism", "own", "wants"), [(3, None, 3), (None, 2, 2), (4, 2, 2), (None, None, 7), (1, None, 1)]
)
def test_a_run_wants_no_more_slots_than_its_parallelism_admits(
    parallelism: int | None, own: int | None, wants: int
) -> None:
    run = begun(fan(7, **({} if own is None else {"parallelism": own})), parallelism=parallelism, limit=0)
    assert run.wants == wants


def test_what_several_steps_want_together_is_bounded_by_the_runs_parallelism() -> None:
    run = begun(fan(5), step("b", forEach=list(range(5))), parallelism=4, limit=0)
    assert run.wants == 4
    run.limit = 4
    run.settle()
    assert (len(run.open), run.wants) == (4, 0)


def test_retries_and_replacements_need_slots_too() -> None:
    """A limit holds over retries, disruptions and resumes."""
    run = begun(step("a", retry={"limit": 1}), step("b"), step("c"), limit=3)
    run.started(A, B, C)
    run.exited(A, code=1)
    run.limit = 0
    run.settle(Observed(gone=frozenset({B})))
    assert (run.tasks[B].reason, run.tasks[B].attempt, run.wants) == (Reason.LIMIT, 1, 1)
    run.settle(now=at(10))
    assert (run.tasks[A].reason, run.tasks[A].attempt, run.wants) == (Reason.LIMIT, 1, 2)
    assert run.open == [C]
    run.want("Paused")
    run.gone(C)
    assert run.wants == 0, "nothing is wanted in a pause"
    run.want("Running")
    assert run.wants == 3
    assert {run.tasks[each].reason for each in (A, B, C)} == {Reason.LIMIT}
    run.limit = 2
    run.settle()
    assert (run.open, run.wants) == ([A, B], 1)


def test_a_limit_that_is_lowered_stops_nothing_that_runs() -> None:
    run = begun(fan(3), limit=3)
    run.limit = 1
    run.settle()
    assert len(run.open) == 3


@pytest.mark.parametrize("policy", ["FinishRunning", "CancelRunning"])
def test_after_a_failure_what_never_started_is_skipped_and_wants_nothing(policy: str) -> None:
    """10."""
    run = begun(step("a"), step("b"), step("c", forEach=[1, 2]), failurePolicy=policy, limit=1)
    assert run.open == [A]
    assert run.wants == 3
    run.reported(A, failed())
    assert run.phases() == {"a": "Failed", "b": "Skipped", "c": "Skipped"}
    assert reasons(run) == {"a": "AgentFailure", "b": "WorkflowFailed", "c": "WorkflowFailed"}
    assert run.tasks[B].phase is Phase.SKIPPED
    assert run.types().count("task.skipped") == 2
    assert end_of(run) == ("Failed", "AgentFailure")


def test_after_a_failure_what_had_started_still_wants_its_slot() -> None:
    """10: running tasks keep their retries."""
    run = begun(step("a"), step("b"), limit=2)
    run.limit = 0
    run.settle(Observed(reports={A: (1, failed())}, gone=frozenset({B})))
    assert run.wants == 1
    run.limit = 1
    run.settle()
    run.reported(B, SUCCESS)
    assert run.phases() == {"a": "Failed", "b": "Succeeded"}


def test_a_fan_of_which_some_ran_ends_cancelled_and_its_last_task_skipped() -> None:
    run = begun(fan(4), step("b"), limit=2)
    run.reported(key(0), SUCCESS)
    run.reported(key(1), SUCCESS)
    run.limit = 1
    run.reported(key(2), SUCCESS)
    run = begun(step("b"), fan(4), limit=2)
    run.settle(Observed(reports={key(0): (1, SUCCESS), B: (1, failed())}))
    assert phases_of(run, "a") == ["Succeeded", "Skipped"]
    assert (run.steps["a"].phase, run.steps["a"].message) == (
        Phase.CANCELLED,
        "the run failed when 1 of 4 tasks had run",
    )


def test_a_loop_of_which_some_ran_likewise() -> None:
    run = begun(step("b"), step("a", repeat={"until": "${false}", "maxIterations": 5}), limit=2)
    run.limit = 1
    run.settle(Observed(reports={key(0): (1, SUCCESS)}))
    assert run.tasks[key(1)].reason is Reason.LIMIT
    run.reported(B, failed())
    assert phases_of(run, "a") == ["Succeeded", "Skipped"]
    assert (run.steps["a"].phase, run.steps["a"].message) == (
        Phase.CANCELLED,
        "the run failed after 1 of at most 5 iterations",
    )


def test_a_task_is_skipped_if_too_many_others_failed_while_it_waited() -> None:
    """10: what is queued of a started forEach counts as not started."""
    run = begun(fan(4, maxFailures=0, continueOnFailure=True), limit=1)
    run.limit = 0
    run.reported(key(0), failed())
    assert phases_of(run, "a") == ["Failed", "Skipped"]
    assert run.tasks[key(1)].reason is Reason.MAX_FAILURES
    assert run.steps["a"].message.startswith("1 of 4 tasks failed, at most 0 may, 3 were not started")
    assert end_of(run) == ("Succeeded", None)


def test_a_cancel_and_a_timeout_cancel_what_waits_for_a_slot() -> None:
    """12."""
    run = begun(step("a"), fan(3) | {"name": "b"}, limit=0)
    run.want("Cancelled")
    assert set(run.phases().values()) == {"Cancelled"}
    assert end_of(run) == ("Cancelled", "Cancelled")
    run = begun(step("a"), limit=0, timeout="10s")
    assert run.requeue_at == at(10), "its time runs"
    run.settle(now=at(10))
    assert (run.tasks[A].reason, end_of(run)) == (Reason.WORKFLOW_TIMEOUT, ("Failed", "Timeout"))


def test_a_pause_while_it_waits_for_a_slot() -> None:
    run = begun(step("a"), step("b"), step("c"), limit=2)
    run.started(A, B)
    run.want("Paused")
    run.gone(B)
    assert (run.tasks[C].phase, run.tasks[C].reason) == (Phase.PAUSED, Reason.PAUSED)
    run.reported(A, failed())
    assert (run.tasks[B].phase, run.tasks[C].phase) == (Phase.PAUSED, Phase.SKIPPED)
    run.want("Running")
    assert run.open == [B]
    run.reported(B, SUCCESS)
    assert end_of(run) == ("Failed", "AgentFailure")


def test_finally_steps_need_slots_too() -> None:
    run = begun(step("a"), finally_=(step("f"),), limit=1)
    run.limit = 0
    run.reported(A, failed())
    assert (run.tasks[TaskKey("f")].reason, run.wants) == (Reason.LIMIT, 1)
    run.limit = 1
    run.settle()
    assert run.open == [TaskKey("f")]


def test_a_standalone_task_waits_likewise() -> None:
    run = begun_alone(desired="Paused")
    run.limit = 0
    run.want("Running")
    assert (run.tasks[TaskKey("")].reason, run.wants) == (Reason.LIMIT, 1)


def test_a_step_that_waits_for_a_slot_counts_as_unfinished() -> None:
    """21: it keeps its place in the run's parallelism."""
    run = begun(step("a"), step("b"), parallelism=1, limit=0)
    assert reasons(run) == {"a": "Limit", "b": "Parallelism"}
    assert run.wants == 1
