"""finally steps (11, 12): after everything else, whatever became of it."""

from typing import Any

import pytest
from tests.unit.domain.cases import A, B, begun, end_of, failed, gave, reasons, step
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS, Run

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.task_scope import items_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey

F, G = TaskKey("f"), TaskKey("g")
SEES = {"phase": "${workflow.phase}", "failures": "${workflow.failures}"}


def closing(*needed: str, name: str = "f", **fields: Any) -> dict[str, Any]:
    return step(name, *needed, **{"input": SEES, **fields})


def ended(run: Run, how: str) -> None:
    """The main step `a` ends in this way."""
    if how == "success":
        run.reported(A, SUCCESS)
    elif how == "failure":
        run.reported(A, failed("disk full"))
    elif how == "cancel":
        run.want("Cancelled")
    else:
        run.settle(now=at(3600))


@pytest.mark.parametrize(
    ("how", "phase", "end"),
    [
        ("success", "Succeeded", ("Succeeded", None)),
        ("failure", "Failed", ("Failed", "AgentFailure")),
        ("cancel", "Cancelled", ("Cancelled", "Cancelled")),
        ("timeout", "Failed", ("Failed", "Timeout")),
    ],
)
def test_they_run_whatever_happened_and_see_it(how: str, phase: str, end: tuple[str, str | None]) -> None:
    """11."""
    run = begun(step("a"), finally_=(closing(),), timeout="1h")
    assert F not in run.tasks
    ended(run, how)
    assert not run.phase.terminal
    failures = [{"step": "a", "reason": "AgentFailure", "message": "disk full"}] if how == "failure" else []
    assert run.tasks[F].input == {"phase": phase, "failures": failures}
    run.reported(F, SUCCESS)
    assert end_of(run) == end


def test_they_start_when_everything_else_has_ended() -> None:
    """11: those that run on after a failure included."""
    run = begun(step("a"), step("b"), step("c", "b"), finally_=(closing(),))
    run.reported(A, failed())
    assert run.open == [B]
    run.reported(B, SUCCESS)
    assert run.phases() == {"a": "Failed", "b": "Succeeded", "c": "Skipped", "f": "Running"}
    assert run.open == [F]


def test_tolerated_failures_are_among_those_that_they_see() -> None:
    run = begun(step("a", continueOnFailure=True), step("b", "a"), finally_=(closing(),))
    run.reported(A, failed("so what"))
    run.reported(B, SUCCESS)
    assert run.tasks[F].input == {
        "phase": "Succeeded",
        "failures": [{"step": "a", "reason": "AgentFailure", "message": "so what"}],
    }


def test_among_themselves_depends_on_gives_order_only() -> None:
    """11: a failed one keeps none of the others from running."""
    run = begun(step("a"), finally_=(closing("f", name="g"), closing()))
    run.reported(A, SUCCESS)
    assert run.open == [F]
    run.reported(F, failed())
    assert run.open == [G]
    assert run.tasks[G].input["phase"] == "Succeeded", "it is the phase that the main steps made"
    run.reported(G, SUCCESS)
    assert end_of(run) == ("Failed", "AgentFailure")


@pytest.mark.parametrize(
    ("main", "last", "tolerated", "end"),
    [
        (SUCCESS, failed("f"), False, ("Failed", "AgentFailure")),
        (SUCCESS, failed("f"), True, ("Succeeded", None)),
        (failed("a"), SUCCESS, False, ("Failed", "AgentFailure")),
        (failed("a"), failed("f"), False, ("Failed", "AgentFailure")),
    ],
)
def test_a_failing_one_fails_a_run_that_would_have_succeeded_and_none_heals_it(
    main: Any, last: Any, tolerated: bool, end: tuple[str, str | None]
) -> None:
    """11."""
    run = begun(step("a"), finally_=(closing(continueOnFailure=tolerated),))
    run.reported(A, main)
    run.reported(F, last)
    assert end_of(run) == end
    if main is not SUCCESS:
        assert run.run.message == "step 'a' failed: a", "the first failure is the run's"


def test_a_failing_one_does_not_stop_the_others() -> None:
    run = begun(step("a"), finally_=(closing(), closing(name="g")), failurePolicy="CancelRunning")
    run.reported(A, SUCCESS)
    run.reported(F, failed())
    assert run.open == [G]
    run.reported(G, SUCCESS)
    assert end_of(run) == ("Failed", "AgentFailure")


@pytest.mark.parametrize(("when", "runs"), [("${workflow.phase == 'Failed'}", True), ("${false}", False)])
def test_they_may_have_conditions(when: str, runs: bool) -> None:
    """9, 11."""
    run = begun(step("a"), finally_=(closing(when=when),))
    run.reported(A, failed())
    assert (run.open == [F]) == runs
    if not runs:
        assert reasons(run)["f"] == "ConditionFalse"
        assert end_of(run) == ("Failed", "AgentFailure")


@pytest.mark.parametrize("when", ["${3}", "${workflow.failures[9].step == 'a'}"])
def test_one_whose_condition_fails_has_failed(when: str) -> None:
    run = begun(step("a"), finally_=(closing(when=when),))
    run.reported(A, SUCCESS)
    assert end_of(run) == ("Failed", "ExpressionError")


def test_they_see_main_steps_without_waiting_for_them_by_name() -> None:
    see = {"a": "${has(steps.a.output) ? steps.a.output : 'none'}", "b": "${steps.b.phase}"}
    run = begun(step("a"), step("b", "a"), finally_=(closing(input=see), closing(name="g", input=see)))
    run.reported(A, failed())
    assert run.tasks[F].input == run.tasks[G].input == {"a": "none", "b": "Skipped"}


def test_they_have_all_that_steps_have() -> None:
    last = closing(forEach="${workflow.failures}", retry={"limit": 1}, parallelism=1, input="${item.step}")
    run = begun(
        step("a"),
        step("b", continueOnFailure=True),
        finally_=(last, closing(name="g", wait={"duration": "9s"})),
    )
    run.settle(Observed(reports={A: (1, failed()), B: (1, failed())}))
    first, second = TaskKey("f", 0), TaskKey("f", 1)
    assert run.open == [first]
    run.exited(first, code=1)
    run.settle(now=at(8))
    run.reported(first, SUCCESS)
    run.reported(second, SUCCESS)
    assert [run.tasks[key].input for key in (first, second)] == ["a", "b"]
    run.settle(now=at(9))
    assert end_of(run) == ("Failed", "AgentFailure")


def test_outputs_may_refer_to_them_and_to_skipped_steps_with_care() -> None:
    """14."""
    outputs = {"f": "${steps.f.output}", "b": "${has(steps.b.output)}"}
    run = begun(step("a"), step("b", when="${false}"), finally_=(closing(),), outputs=outputs)
    run.reported(A, SUCCESS)
    run.reported(F, gave({"sent": None}))
    assert end_of(run) == ("Succeeded", None)
    assert run.run.outputs == {"f": {"sent": None}, "b": False}


def test_outputs_that_fail_fail_a_run_after_its_finally_steps() -> None:
    """14."""
    run = begun(step("a"), finally_=(closing(),), outputs={"x": "${steps.f.output.gone}"})
    run.reported(A, SUCCESS)
    run.reported(F, gave({}))
    assert end_of(run) == ("Failed", "ExpressionError")
    assert run.run.message == "spec.outputs.x: ${steps.f.output.gone}: no such key: 'gone'"


# --- a cancel while they run (11)


def test_a_cancel_lets_them_finish_and_the_run_ends_cancelled() -> None:
    """11."""
    run = begun(step("a"), finally_=(closing(), closing("f", name="g")))
    run.reported(A, SUCCESS)
    run.want("Cancelled")
    assert run.open == [F]
    assert run.run.stop is None
    assert (run.run.reason, run.run.message) == (
        Reason.CANCELLED,
        "cancelled; the finally steps that run are let finish",
    )
    run.reported(F, SUCCESS)
    assert run.open == [G], "those that have not started run, too: all of them are one closing act"
    assert run.tasks[G].input["phase"] == "Succeeded", "what they see does not change under them"
    run.reported(G, failed())
    assert end_of(run) == ("Cancelled", "Cancelled")


@pytest.mark.parametrize("how", ["failure", "timeout"])
def test_a_cancel_after_a_failure_or_timeout(how: str) -> None:
    """11, 12."""
    run = begun(step("a"), finally_=(closing(),), timeout="1h")
    ended(run, how)
    run.want("Cancelled")
    run.reported(F, SUCCESS)
    assert end_of(run) == ("Cancelled", "Cancelled")


def test_a_cancel_of_a_run_that_is_paused_in_its_finally_steps_lets_them_finish() -> None:
    """11, 23."""
    run = begun(step("a"), finally_=(closing(retry={"limit": 1}), closing(name="g")))
    run.reported(A, SUCCESS)
    run.exited(F, code=1)
    run.want("Paused", now=at(0.5))
    run.gone(G)
    assert run.open == []
    run.want("Cancelled", now=at(100))
    assert run.open == [G]
    run.settle(now=at(101))
    assert run.open == [F, G]
    run.reported(F, SUCCESS)
    run.reported(G, SUCCESS)
    assert end_of(run) == ("Cancelled", "Cancelled")
    assert run.tasks[G].disruptions == 0


def test_final_steps_see_a_cancel_that_came_before_their_first_decision() -> None:
    """11: the phase as it will be."""
    run = begun(step("a"), finally_=(closing(),))
    run.want("Paused")
    run.reported(A, SUCCESS)
    assert run.phases() == {"a": "Succeeded"}
    run.want("Cancelled")
    assert run.tasks[F].input["phase"] == "Cancelled"
    run.reported(F, SUCCESS)
    assert end_of(run) == ("Cancelled", "Cancelled")


def test_items_stay_what_they_were_when_a_cancel_comes() -> None:
    """An operator that restarts in the middle finds the same items under the same numbers."""
    last = closing(
        forEach="${workflow.phase == 'Succeeded' ? ['x', 'y'] : []}", parallelism=1, input="${item}"
    )
    run = begun(step("a"), finally_=(last,))
    run.reported(A, SUCCESS)
    run.want("Cancelled")
    run.view = run.reloaded()
    run.reported(TaskKey("f", 0), SUCCESS)
    run.reported(TaskKey("f", 1), SUCCESS)
    assert run.tasks[TaskKey("f", 1)].input == "y"
    assert end_of(run) == ("Cancelled", "Cancelled")


def test_a_decision_that_was_not_committed_leaves_no_items_behind() -> None:
    """What finally steps see follows from how the run went, and that is known when it is committed."""
    last = closing(forEach="${workflow.phase == 'Failed' ? ['x', 'y'] : ['z']}", input="${item}")
    run = begun(step("a"), finally_=(last,))
    lost = run.standing(Observed(reports={A: (1, failed())}))
    assert decide(run.view, lost, run.now).commit is not None
    run.reported(A, SUCCESS)
    assert run.steps["f"].total == 1
    assert run.tasks[TaskKey("f", 0)].input == "z"
    assert items_of(ChangeSet(run.view, run.now), run.view.plan.steps["f"]) == ["z"]


def test_a_run_that_is_deleted_runs_none() -> None:
    run = begun(step("a"), finally_=(closing(),))
    run.settle(Observed(deleted=True))
    assert run.phases() == {"a": "Cancelled", "f": "Cancelled"}
    assert F not in run.tasks
    run = begun(step("a"), finally_=(closing(),))
    run.reported(A, SUCCESS)
    run.settle(Observed(deleted=True))
    assert run.tasks[F].phase is Phase.CANCELLED
    assert end_of(run) == ("Cancelled", "Deleted")


def test_a_run_whose_main_steps_are_all_skipped_still_closes() -> None:
    run = begun(step("a", when="${false}"), finally_=(closing(),))
    assert run.open == [F]
    assert run.types() == ["workflow.created", "task.skipped", "workflow.started", "task.scheduled"]
    run.reported(F, SUCCESS)
    assert end_of(run) == ("Succeeded", None)


def test_a_run_cancelled_before_it_started_still_closes() -> None:
    """12: the run is stopped, and its final steps report that to the clients that wait for it."""
    run = begun(step("a"), finally_=(closing(),), desired="Paused")
    run.want("Cancelled")
    assert run.phases() == {"a": "Cancelled", "f": "Running"}
    assert run.tasks[F].input["phase"] == "Cancelled"
    run.reported(F, SUCCESS)
    assert end_of(run) == ("Cancelled", "Cancelled")
