"""Loops (17): each iteration is a task with a result of its own."""

import pytest
from tests.unit.domain.cases import (
    BAD_CONDITIONS,
    B,
    begun,
    end_of,
    failed,
    gave,
    phases_of,
    reasons,
    step,
)
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS

from perdure.domain.engine.observed import Observed
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, TaskKey


def key(index: int) -> TaskKey:
    return TaskKey("a", index)


def loop(until: str = "${last.done}", most: int = 5, **fields: object) -> dict[str, object]:
    return step("a", repeat={"until": until, "maxIterations": most}, **fields)


def test_last_is_null_at_first_then_the_newest_output() -> None:
    """17."""
    run = begun(
        loop(input={"last": "${last}", "index": "${index}"}),
        step("b", input={"out": "${steps.a.output}", "tries": "${steps.a.attempts}"}),
        outputs={"all": "${steps.a}"},
    )
    assert run.tasks[key(0)].input == {"last": None, "index": 0}
    run.reported(key(0), gave({"n": 1, "done": False}))
    assert run.tasks[key(1)].input == {"last": {"n": 1, "done": False}, "index": 1}
    assert "b" not in run.steps
    run.reported(key(1), gave({"n": 2, "done": True}))
    assert run.tasks[B].input == {"out": {"n": 2, "done": True}, "tries": 2}
    assert run.steps["a"].total == 2
    assert run.tasks[key(0)].output == {"n": 1, "done": False}
    run.reported(B, SUCCESS)
    assert "outputs" not in run.run.outputs["all"], "a loop has the last output, and no list of them"


def test_until_sees_the_iteration_that_has_just_ended() -> None:
    """17: `last` is its output, `index` its number."""
    run = begun(loop("${index == 1 && last == 'b'}"))
    run.reported(key(0), gave("b"))
    run.reported(key(1), gave("b"))
    assert end_of(run) == ("Succeeded", None)
    assert phases_of(run, "a") == ["Succeeded"] * 2


def test_the_next_iteration_starts_in_the_same_commit_as_the_result() -> None:
    run = begun(loop("${false}"))
    run.started(key(0))
    since = len(run.events)
    run.reported(key(0), SUCCESS)
    assert run.types(since=since) == ["task.succeeded", "task.scheduled"]
    assert run.open == [key(1)]


def test_max_iterations_without_until_fails() -> None:
    """17."""
    run = begun(loop("${false}", most=2))
    run.reported(key(0), SUCCESS)
    run.reported(key(1), SUCCESS)
    assert end_of(run) == ("Failed", "MaxIterations")
    text = "`until` was still false after iteration 2, the last that maxIterations allows"
    assert run.steps["a"].message == text


def test_until_counts_in_the_last_iteration_too() -> None:
    run = begun(loop("${index == 1}", most=2))
    run.reported(key(0), SUCCESS)
    run.reported(key(1), SUCCESS)
    assert end_of(run) == ("Succeeded", None)


@pytest.mark.parametrize(("until", "message"), BAD_CONDITIONS)
def test_an_until_that_is_no_condition_fails_the_step(until: str, message: str) -> None:
    run = begun(loop(until))
    assert run.open == [key(0)], "the condition is not evaluated before there is a result"
    run.reported(key(0), SUCCESS)
    assert end_of(run) == ("Failed", "ExpressionError")
    assert run.steps["a"].message == f"repeat.until: {message}"


def test_an_iteration_that_fails_fails_the_loop() -> None:
    run = begun(loop("${false}"))
    run.reported(key(0), SUCCESS)
    run.reported(key(1), failed())
    assert end_of(run) == ("Failed", "AgentFailure")
    assert run.steps["a"].message == "iteration 1: no hope"


def test_an_iteration_has_retries_of_its_own() -> None:
    run = begun(loop("${index == 1}", retry={"limit": 1}))
    for index in range(2):
        run.exited(key(index), code=1)
        run.settle(now=run.moment(10))
        run.exited(key(index))
    assert end_of(run) == ("Succeeded", None)
    assert [run.tasks[key(index)].retries for index in range(2)] == [1, 1]


def test_an_input_that_fails_in_a_later_iteration_fails_the_loop() -> None:
    run = begun(loop("${false}", input="${index == 1 ? last.gone : 0}"))
    run.reported(key(0), SUCCESS)
    assert end_of(run) == ("Failed", "ExpressionError")
    assert run.steps["a"].message.startswith("iteration 1: input: ")
    assert run.tasks[key(1)].attempt == 0


def test_a_loop_waits_for_its_turn_between_iterations() -> None:
    """21."""
    run = begun(loop("${index == 1}"), step("b", forEach=[1, 2]), parallelism=1)
    assert run.open == [key(0)]
    run.reported(key(0), SUCCESS)
    assert run.open == [key(1)], "it comes before steps that come later"
    run.reported(key(1), SUCCESS)
    assert run.open == [TaskKey("b", 0)]


def test_a_failure_elsewhere_ends_a_loop_after_the_iteration_that_runs() -> None:
    """10."""
    run = begun(loop("${false}"), step("b"))
    run.reported(B, failed())
    assert run.open == [key(0)]
    run.reported(key(0), SUCCESS)
    assert run.steps["a"].phase is Phase.CANCELLED
    assert (reasons(run)["a"], run.steps["a"].message) == (
        "WorkflowFailed",
        "the run failed after 1 of at most 5 iterations",
    )
    run = begun(loop("${true}"), step("b"))
    run.reported(B, failed())
    run.reported(key(0), SUCCESS)
    assert run.steps["a"].phase is Phase.SUCCEEDED


def test_iterations_whose_results_are_cached_follow_each_other_at_once() -> None:
    first = begun(loop("${index == 2}", cache={"key": "${index}"}))
    for index in range(2):
        first.reported(key(index), gave(index))
    run = begun(loop("${index == 2}", cache={"key": "${index}"}), desired="Paused")
    for keys in first.asked[:2]:
        for task, cache_key in keys.items():
            run.cache[cache_key] = CachedResult(
                output=payload_of(task.index), workflow="other", task=f"a-{task.index}"
            )
    run.want("Running")
    assert [run.tasks[key(index)].reason for index in range(2)] == [Reason.CACHED] * 2
    assert run.open == [key(2)]
    run.reported(key(2), SUCCESS)
    assert end_of(run) == ("Succeeded", None)


def test_a_loop_that_is_cancelled_while_it_asks_for_a_cached_result_ends() -> None:
    run = begun(loop("${false}", cache={"key": "k"}), desired="Paused")
    run.desired = "Running"
    decision = run.decide()
    assert list(decision.questions) == [key(0)]
    assert run.steps["a"].phase is Phase.PENDING
    run.want("Cancelled", now=at(1))
    assert end_of(run) == ("Cancelled", "Cancelled")


def test_a_disrupted_iteration_is_not_a_new_one() -> None:
    run = begun(loop("${true}"))
    run.gone(key(0))
    assert run.open == [key(0)]
    run.settle(Observed(reports={key(0): (2, SUCCESS)}))
    assert end_of(run) == ("Succeeded", None)
    assert run.steps["a"].total == 1
