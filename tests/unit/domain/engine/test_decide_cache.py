"""Results that are shared by key: asked for before a task is made, and seen as Cached (6)."""

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.domain.cases import A, B, begun, end_of, failed, gave, phases_of, reasons, step
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS, Run

from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.steps import MAX_NEW_TASKS
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, TaskKey

HIT = CachedResult(output=payload_of({"n": 7}), workflow="earlier", task="earlier-a-x7k2q")
KEY = {"key": "${inputs.x}"}


def first(*steps: dict[str, Any], **fields: Any) -> Run:
    """A run that is about to make its first decision."""
    run = begun(*steps, desired="Paused", inputs={"x": "x"} | fields.pop("inputs", {}), **fields)
    run.desired = "Running"
    return run


def test_a_task_is_not_made_before_the_answer_is_there() -> None:
    run = first(step("a", cache=KEY))
    decision = run.decide()
    assert list(decision.questions) == [A]
    assert run.tasks == {}
    assert (run.phases(), run.steps["a"].started_at) == ({"a": "Pending"}, None)
    assert run.decide().questions == decision.questions, "until then it is asked for"
    run.decide(Observed(cached={A: None}))
    assert run.open == [A]
    assert run.tasks[A].cache_key == decision.questions[A]


def test_a_hit_is_a_result_without_a_pod() -> None:
    """6: phase Succeeded, reason Cached, and where it is from."""
    run = first(
        step("a", cache=KEY), step("b", input={"n": "${steps.a.output.n}", "tries": "${steps.a.attempts}"})
    )
    (cache_key,) = run.decide().questions.values()
    run.cache[cache_key] = HIT
    run.settle()
    task = run.tasks[A]
    assert (task.phase, task.reason, task.output) == (Phase.SUCCEEDED, Reason.CACHED, {"n": 7})
    assert task.message == "the result of task earlier-a-x7k2q of earlier"
    assert (task.attempt, task.cache_until) == (0, None), (
        "the result was not computed again, so its time to live stays"
    )
    assert (run.steps["a"].phase, reasons(run)["a"]) == (Phase.SUCCEEDED, "Cached")
    assert run.tasks[B].input == {"n": 7, "tries": 0}
    assert run.open == [B]


def test_a_miss_runs_and_is_kept_for_its_time() -> None:
    run = first(step("a", cache={**KEY, "ttl": "1h"}, retry={"limit": 1}))
    run.settle()
    run.exited(A, code=1)
    assert run.tasks[A].cache_until is None
    run.settle(now=at(10))
    assert len(run.asked) == 1, "it is asked for once, not for every attempt"
    run.reported(A, SUCCESS)
    assert run.tasks[A].cache_until == at(10) + timedelta(hours=1)


def test_how_long_results_live_by_default() -> None:
    run = begun(step("a", cache=KEY), inputs={"x": 1})
    run.reported(A, SUCCESS)
    assert run.tasks[A].cache_until == at(7 * 24 * 3600)


def test_a_failure_is_not_kept() -> None:
    run = begun(step("a", cache=KEY), inputs={"x": 1})
    run.reported(A, failed())
    assert run.tasks[A].cache_until is None


def keys(*values: Any, key: Any = "${inputs.x}") -> list[str]:
    """The cache keys under which steps ask for these inputs."""
    found = []
    for value in values:
        run = first(step("a", cache={"key": key}), inputs={"x": value})
        found += run.decide().questions.values()
    return found


def test_equal_keys_and_only_those_are_equal() -> None:
    same = keys({"a": 1, "b": [2, None]}, {"b": [2, None], "a": 1})
    assert same[0] == same[1]
    different = keys("1", 1, 1.5, True, None, [], {}, "", [1], "x")
    assert len(set(different)) == len(different)
    assert all(len(key) == 64 for key in different)
    assert keys("x") == keys("y", key="x") == keys("y", key="${'x'}")


@pytest.mark.parametrize("key", ["${inputs.gone}", "v1-${inputs.gone}"])
def test_a_key_that_fails_fails_the_task(key: str) -> None:
    run = begun(step("a", cache={"key": key}, input={"n": 1}))
    assert end_of(run) == ("Failed", "ExpressionError")
    assert run.tasks[A].message.startswith("cache.key: ${inputs.gone}")
    assert (run.tasks[A].input, run.tasks[A].cache_key) == (None, None)
    assert run.asked == []


def test_a_child_workflow_may_be_cached_too() -> None:
    run = first(step("a", workflow={"templateRef": "child", "inputs": {}}, cache=KEY))
    (cache_key,) = run.decide().questions.values()
    run.cache[cache_key] = HIT
    run.settle()
    assert end_of(run) == ("Succeeded", None)
    assert run.attempts == {}


# --- many at once


def fan(count: int, **fields: Any) -> Run:
    return first(step("a", forEach=list(range(count)), cache={"key": "${item}"}, **fields))


def key(index: int) -> TaskKey:
    return TaskKey("a", index)


def answers(questions: Any, *hits: int) -> dict[TaskKey, CachedResult | None]:
    return {task: HIT if task.index in hits else None for task in questions}


def test_a_fan_asks_for_all_its_items_at_once() -> None:
    run = fan(4)
    decision = run.decide()
    assert sorted(decision.questions) == [key(index) for index in range(4)]
    run.decide(Observed(cached=answers(decision.questions, 1, 3)))
    assert phases_of(run, "a") == ["Pending", "Succeeded", "Pending", "Succeeded"]
    assert run.open == [key(0), key(2)]


def test_a_large_fan_asks_in_batches() -> None:
    run = fan(MAX_NEW_TASKS + 10)
    decision = run.decide()
    assert (len(decision.questions), decision.more) == (MAX_NEW_TASKS, True)
    run.cache = dict.fromkeys(decision.questions.values(), HIT)
    run.settle()
    assert run.view.counts["a"][Phase.SUCCEEDED] == MAX_NEW_TASKS
    assert len(run.open) == 10


def test_parallelism_bounds_what_is_asked_for_too() -> None:
    """21: what might run has its place."""
    run = fan(5, parallelism=2)
    decision = run.decide()
    assert sorted(decision.questions) == [key(0), key(1)]
    run.decide(Observed(cached=answers(decision.questions, 0, 1)))
    assert phases_of(run, "a") == ["Succeeded"] * 2
    run.settle()
    assert run.open == [key(2), key(3)]


def test_answers_for_some_make_none_out_of_turn() -> None:
    """Tasks are made in the order of their items."""
    run = fan(3)
    run.decide()
    decision = run.decide(Observed(cached={key(1): HIT, key(2): HIT}))
    assert run.tasks == {}
    assert sorted(decision.questions) == [key(0), key(1), key(2)]


def test_an_item_that_fails_waits_for_those_before_it() -> None:
    run = first(
        step("a", forEach=[1, {}, 3], input="${index == 1 ? item.gone : item}", cache={"key": "${index}"})
    )
    decision = run.decide()
    assert list(decision.questions) == [key(0)]
    assert run.tasks == {}
    run.settle(Observed(cached={key(0): None}))
    assert phases_of(run, "a") == ["Pending", "Failed"]
    run.reported(key(0), SUCCESS)
    assert end_of(run) == ("Failed", "TasksFailed")


def test_a_run_that_fails_meanwhile_asks_for_nothing() -> None:
    run = first(step("a", cache=KEY), step("b", forEach="${3}"))
    decision = run.decide()
    assert (decision.questions, run.phase) == ({}, Phase.FAILED)
    assert reasons(run) == {"a": "WorkflowFailed", "b": "ExpressionError"}


@pytest.mark.parametrize("how", ["Cancelled", "failure"])
def test_a_run_that_comes_to_its_end_while_it_asks_ends(how: str) -> None:
    run = first(step("a", cache=KEY), step("b"))
    assert list(run.decide().questions) == [A]
    if how == "failure":
        run.reported(B, failed())
        assert (run.phases()["a"], end_of(run)) == ("Skipped", ("Failed", "AgentFailure"))
    else:
        run.want("Cancelled")
        assert (run.phases()["a"], end_of(run)) == ("Cancelled", ("Cancelled", "Cancelled"))


def test_a_pause_while_it_asks() -> None:
    run = first(step("a", cache=KEY))
    run.decide()
    run.want("Paused")
    assert decide(run.view, run.standing(Observed()), run.now).questions == {}
    run.want("Running")
    assert run.open == [A]


# --- with limits


def test_hits_need_no_slot() -> None:
    run = fan(4)
    run.limit = 0
    decision = run.decide()
    run.settle(Observed(cached=answers(decision.questions, 0, 1)))
    assert phases_of(run, "a") == ["Succeeded", "Succeeded", "Pending"]
    assert (run.tasks[key(2)].reason, run.wants) == (Reason.LIMIT, 1)
    asked = len(run.asked)
    run.settle()
    assert len(run.asked) == asked, "while one waits for a slot, nothing is asked for over and over"


def test_one_that_waits_for_a_slot_is_not_asked_for_again() -> None:
    run = first(step("a", cache=KEY))
    run.limit = 0
    run.settle()
    run.limit = 1
    run.settle()
    assert len(run.asked) == 1
    run.reported(A, gave(1))
    assert run.tasks[A].cache_until is not None
