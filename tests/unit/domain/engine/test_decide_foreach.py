"""Steps of many tasks: forms of forEach (16), batches, parallelism (21), partial failure (13)."""

from typing import Any

import pytest
from tests.unit.domain.answering import answered
from tests.unit.domain.builders import planned, view_of_workflow
from tests.unit.domain.cases import begun, end_of, failed, gave, phases_of, step
from tests.unit.domain.runs import FATAL, SUCCESS, Run

from perdure.api.workflow import MAX_ITEMS
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.plan import PlannedStep, compile_plan
from perdure.domain.engine.steps import MAX_NEW_TASKS
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report, TaskKey
from perdure.steps import KINDS
from perdure.steps.agent.rules import render_agent


def started(for_each: Any, *more: dict[str, Any], **fields: Any) -> Run:
    fields.setdefault("inputs", {"l": ["x", "y"], "m": {"b": 2, "a": 1}, "deep": [[1], [2]]})
    fan = {"name": "a", "forEach": for_each, "input": {"i": "${index}", "v": "${item}"}}
    run = Run(view_of_workflow(fan | fields.pop("step", {}), *more, **fields))
    run.settle()
    return run


def key(index: int) -> TaskKey:
    return TaskKey("a", index)


@pytest.mark.parametrize(
    ("for_each", "items"),
    [
        (["x", 1, None], ["x", 1, None]),
        (["${inputs.l[1]}", ["${inputs.l}"]], ["y", [["x", "y"]]]),
        ("${inputs.l}", ["x", "y"]),
        ("${inputs.l.filter(x, x == 'y')}", ["y"]),
        # Maps: in order of their keys.
        ({"b": "${inputs.l}", "a": 1}, [{"key": "a", "value": 1}, {"key": "b", "value": ["x", "y"]}]),
        ("${inputs.m}", [{"key": "a", "value": 1}, {"key": "b", "value": 2}]),
        ("${inputs.m.map(k, k)}", ["a", "b"]),
        # An item with the syntax of an expression is only a text.
        ("${['$' + '{inputs.l}']}", ["${inputs.l}"]),
    ],
)
def test_a_step_has_a_task_for_each_item_of_a_list_or_a_map(for_each: Any, items: list[Any]) -> None:
    run = started(for_each)
    made = [run.tasks[task_key].input for task_key in sorted(run.tasks)]
    assert made == [{"i": index, "v": item} for index, item in enumerate(items)]


@pytest.mark.parametrize("for_each", [[], {}, "${[]}", "${{}}", "${inputs.l.filter(x, false)}"])
def test_no_items_succeed_with_no_outputs(for_each: Any) -> None:
    run = started(for_each, outputs={"o": "${steps.a.outputs}", "n": "${steps.a.attempts}"})
    assert (run.phase, run.run.outputs) == (Phase.SUCCEEDED, {"o": [], "n": 0})
    assert run.tasks == {}
    assert run.types() == ["workflow.created", "workflow.started", "workflow.succeeded"]


def test_a_chain_of_empty_steps_ends_at_once() -> None:
    run = started(
        [], {"name": "b", "forEach": "${steps.a.outputs}"}, {"name": "c", "forEach": [], "dependsOn": ["b"]}
    )
    assert run.phases() == {"a": "Succeeded", "b": "Succeeded", "c": "Succeeded"}
    assert run.phase is Phase.SUCCEEDED


def test_arguments_see_their_item() -> None:
    agent = {"args": ["--n=${index}", "${item.key}"], "env": [{"name": "V", "value": "${item.value}"}]}
    run = started("${inputs.m}", step={"agent": agent})
    fan: PlannedStep = run.view.plan.steps["a"]
    changes = ChangeSet(run.view, run.now)
    rendered = [render_agent(fan, TaskScope(changes, fan, index).names) for index in (0, 1)]
    assert [block["args"] for block in rendered] == [["--n=0", "a"], ["--n=1", "b"]]
    assert [block["env"] for block in rendered] == [
        [{"name": "V", "value": "1"}],
        [{"name": "V", "value": "2"}],
    ]


def test_outputs_are_in_the_order_of_items_not_of_ends() -> None:
    run = started(["x", "y", "z"], {"name": "b", "input": "${steps.a.outputs}"})
    for index in (2, 0, 1):
        run.reported(key(index), Report(outcome="Succeeded", output=payload_of(f"o{index}"), at=run.now))
    assert run.tasks[TaskKey("b")].input == ["o0", "o1", "o2"]


def test_a_failed_task_fails_the_step_when_the_others_have_ended() -> None:
    run = started(["x", "y", "z"])
    run.reported(key(1), FATAL)
    assert run.phases() == {"a": "Running"}
    run.reported(key(0), SUCCESS)
    run.reported(key(2), SUCCESS)
    record = run.steps["a"]
    assert (record.phase, record.reason) == (Phase.FAILED, Reason.TASKS_FAILED)
    assert record.message == f"1 of 3 tasks failed; first: {run.tasks[key(1)].name}: no hope"
    assert run.run.message.startswith("step 'a' failed: 1 of 3 tasks failed")


def test_parallelism_bounds_tasks_and_each_end_lets_the_next_one_in() -> None:
    run = started(list(range(5)), parallelism=2)
    assert run.open == [key(0), key(1)]
    run.reported(key(1), SUCCESS)
    assert run.open == [key(0), key(2)]
    run.settle(Observed(reports={key(0): (1, SUCCESS), key(2): (1, SUCCESS)}))
    assert run.open == [key(3), key(4)]
    run.settle(Observed(reports={key(3): (1, SUCCESS), key(4): (1, SUCCESS)}))
    assert run.phase is Phase.SUCCEEDED


def test_a_task_that_waits_for_a_retry_keeps_its_place() -> None:
    run = started(["x", "y"], parallelism=1, step={"retry": {"limit": 1}})
    run.exited(key(0), code=1)
    assert run.open == []
    assert key(1) not in run.tasks


def test_after_a_failure_what_is_queued_counts_as_not_started() -> None:
    """10."""
    run = started(list(range(5)), parallelism=2)
    run.settle(Observed(reports={key(0): (1, FATAL), key(1): (1, SUCCESS)}))
    assert sorted(run.tasks) == [key(0), key(1)]
    assert run.steps["a"].message.startswith("1 of 5 tasks failed, 3 were not started; first: ")
    assert run.phase is Phase.FAILED


def test_a_failure_elsewhere_ends_a_step_that_cannot_go_on() -> None:
    run = started([1, 2, 3], {"name": "b"}, parallelism=2)
    run.settle(Observed(reports={key(0): (1, SUCCESS)}))
    assert run.open == [key(1), key(2)]
    run.settle(Observed(reports={key(1): (1, SUCCESS)}))
    assert run.open == [key(2), TaskKey("b")]
    run = started([1, 2, 3], {"name": "b"}, parallelism=3)
    assert run.phases() == {"a": "Running", "b": "Pending"}


def test_a_step_with_tasks_done_and_tasks_never_started_is_cancelled_by_a_failure_elsewhere() -> None:
    run = Run(view_of_workflow({"name": "b"}, {"name": "a", "forEach": [1, 2, 3]}, parallelism=2))
    run.settle()
    assert run.open == [key(0), TaskKey("b")]
    run.settle(Observed(reports={key(0): (1, SUCCESS), TaskKey("b"): (1, FATAL)}))
    record = run.steps["a"]
    assert (record.phase, record.reason) == (Phase.CANCELLED, Reason.WORKFLOW_FAILED)
    assert record.message == "the run failed when 1 of 3 tasks had run"
    assert (run.phase, run.run.reason) == (Phase.FAILED, Reason.AGENT_FAILURE)


def test_an_expression_that_fails_for_one_item_fails_the_step_there() -> None:
    run = started("${[{'v': 1}, {}, {'v': 3}]}", step={"input": "${item.v}"})
    assert (run.tasks[key(1)].phase, run.tasks[key(1)].attempt) == (Phase.FAILED, 0)
    assert run.tasks[key(1)].message == "input: ${item.v}: no such key: 'v'"
    assert key(2) not in run.tasks
    assert run.open == [key(0)]
    failed = [event for event in run.events if event.type == "task.failed"]
    assert [(event.data["index"], event.attempt) for event in failed] == [(1, None)]


def test_a_step_with_too_many_items_fails() -> None:
    twice = "${inputs.l.map(x, inputs.l).flatten()}"
    run = started(twice, inputs={"l": list(range(101))})
    assert (run.phase, run.run.reason) == (Phase.FAILED, Reason.TOO_MANY_ITEMS)
    assert f"10201 items; the limit is {MAX_ITEMS}" in run.steps["a"].message
    assert run.tasks == {}


def test_the_largest_step_starts_in_batches() -> None:
    """No commit grows with the step, and all of it is asked for without waiting for anything."""
    run = Run(view_of_workflow({"name": "a", "forEach": "${lists.range(10000)}"}, {"name": "b"}))
    made = []
    more = True
    while more:
        decision = _unchecked(run)
        more = decision.more
        if decision.commit is not None:
            made.append(len(decision.commit.tasks))
    assert made == [MAX_NEW_TASKS] * (MAX_ITEMS // MAX_NEW_TASKS) + [1]
    assert len(run.view.live) == MAX_ITEMS + 1
    assert run.view.steps["b"].phase is Phase.RUNNING


def _unchecked(run: Run) -> Any:
    """A decision, committed without all the checks, which go through every task each time."""
    decision = decide(run.view, answered(run.view, Observed(), run.now), run.now)
    if decision.commit is not None:
        run._commit(decision.commit)
    return decision


def test_the_run_it_starts_in_does_not_change_what_an_expression_sees() -> None:
    """Evaluated again, after a restart of the operator, items are what they were."""
    run = started("${[workflow.phase]}")
    assert run.tasks[key(0)].input == {"i": 0, "v": "Running"}
    view = run.reloaded()
    fan = view.plan.steps["a"]
    assert TaskScope(ChangeSet(view, run.now), fan, 0).names["item"] == "Running"


# --- outputs (13)


def fan(**fields: Any) -> Run:
    """Three tasks, and a step that takes their outputs in whatever way they ended."""
    after = step("b", when="${true}", input="${steps.a.outputs}")
    return begun(step("a", forEach=["x", "y", "z"], **fields), after)


@pytest.mark.parametrize("fields", [{"continueOnFailure": True}, {"maxFailures": 1}])
def test_a_failed_item_holds_null_at_its_index(fields: dict[str, Any]) -> None:
    """13: outputs exist once the step is terminal, tolerated failure included."""
    run = fan(**fields)
    run.reported(key(2), gave("o2"))
    run.reported(key(1), failed())
    assert "b" not in run.steps
    run.reported(key(0), gave("o0"))
    assert run.tasks[TaskKey("b")].input == ["o0", None, "o2"]


def test_a_step_that_never_started_has_no_outputs() -> None:
    """13: absent, so that has() is false and unguarded use is an error."""
    run = fan(when="${false}")
    assert run.steps["b"].reason is Reason.EXPRESSION_ERROR
    assert "step 'a' is Skipped and has no output; guard the reference with has()" in run.steps["b"].message
    run = begun(
        step("a", forEach=["x"], when="${false}"), step("b", when="${true}", input="${has(steps.a.outputs)}")
    )
    assert run.tasks[TaskKey("b")].input is False


def test_null_is_an_output_like_any_other() -> None:
    """13."""
    run = begun(step("a"), step("b", input={"has": "${has(steps.a.output)}", "is": "${steps.a.output}"}))
    run.reported(TaskKey("a"), gave(None))
    assert run.tasks[TaskKey("b")].input == {"has": True, "is": None}


def test_values_of_a_fan_count_all_its_tasks_attempts() -> None:
    """22: disruptions included."""
    run = begun(step("a", forEach=[1, 2]), step("b", input="${steps.a.attempts}"))
    run.gone(key(0))
    run.settle(Observed(reports={key(0): (2, SUCCESS), key(1): (1, SUCCESS)}))
    assert run.tasks[TaskKey("b")].input == 3


# --- parallelism of a step (21)


def test_a_steps_own_parallelism() -> None:
    run = begun(step("a", forEach=list(range(4)), parallelism=2), step("b"), parallelism=4)
    assert run.open == [key(0), key(1), TaskKey("b")]
    run.exited(key(0))
    assert run.open == [key(1), key(2), TaskKey("b")]


def test_the_tighter_of_two_limits_binds() -> None:
    run = begun(step("a", forEach=list(range(9)), parallelism=5), parallelism=3)
    assert len(run.open) == 3
    run = begun(step("a", forEach=list(range(9)), parallelism=3), parallelism=5)
    assert len(run.open) == 3


def test_a_task_in_backoff_keeps_its_place_in_its_step() -> None:
    run = begun(step("a", forEach=[1, 2], parallelism=1, retry={"limit": 1}))
    run.exited(key(0), code=1)
    assert run.open == []
    assert list(run.tasks) == [key(0)]


def test_a_step_of_waits_obeys_its_own_parallelism_only() -> None:
    run = begun(
        step("a", forEach=list(range(5)), parallelism=3, wait={"duration": "10s"}), step("b"), parallelism=1
    )
    assert phases_of(run, "a") == ["Running"] * 3
    assert run.open == [TaskKey("b")]


# --- tolerated failures


@pytest.mark.parametrize(
    ("limit", "total", "tolerated"),
    [
        (0, 5, 0),
        (2, 5, 2),
        (9, 5, 9),
        ("0%", 5, 0),
        ("20%", 5, 1),
        ("20%", 9, 1),  # rounded down: a fifth of them is less than two
        ("20%", 4, 0),
        ("33%", 10_000, 3300),
        ("29%", 100, 29),  # not 28, as floating point would have it
        ("99%", 1, 0),
        ("100%", 7, 7),
    ],
)
def test_a_limit_of_failures_is_a_number_or_a_share_of_the_items(
    limit: int | str, total: int, tolerated: int
) -> None:
    plan = compile_plan(planned(step("a", forEach=[], maxFailures=limit)), KINDS)
    assert plan.steps["a"].tolerated_failures(total) == tolerated


@pytest.mark.parametrize("limit", [1, "40%"])
def test_as_many_failures_as_are_tolerated_are_a_success(limit: int | str) -> None:
    run = begun(step("a", forEach=["x", "y", "z"], maxFailures=limit))
    run.settle(Observed(reports={key(0): (1, SUCCESS), key(1): (1, failed()), key(2): (1, SUCCESS)}))
    assert end_of(run) == ("Succeeded", None)
    assert phases_of(run, "a") == ["Succeeded", "Failed", "Succeeded"]


@pytest.mark.parametrize("fields", [{"maxFailures": 1}, {"maxFailures": 1, "continueOnFailure": True}])
def test_one_failure_more_stops_what_is_queued_and_fails_the_step(fields: dict[str, Any]) -> None:
    run = begun(step("a", forEach=list(range(6)), parallelism=3, **fields))
    run.settle(Observed(reports={key(0): (1, failed("first")), key(1): (1, failed())}))
    assert run.open == [key(2)], "what runs goes on, and nothing comes after it"
    run.reported(key(2), SUCCESS)
    record = run.steps["a"]
    assert (record.phase, record.reason) == (Phase.FAILED, Reason.MAX_FAILURES)
    name = run.tasks[key(0)].name
    assert record.message == f"2 of 6 tasks failed, at most 1 may, 3 were not started; first: {name}: first"
    tolerated = "continueOnFailure" in fields
    assert end_of(run) == (("Succeeded", None) if tolerated else ("Failed", "MaxFailures"))


def test_tolerated_failures_do_not_fail_the_run_meanwhile() -> None:
    run = begun(step("a", forEach=[1, 2], maxFailures="50%"), step("b"), step("c", "b"))
    run.reported(key(0), failed())
    run.reported(TaskKey("b"), SUCCESS)
    assert run.open == [key(1), TaskKey("c")]
    run.reported(key(1), failed())
    assert run.steps["a"].reason is Reason.MAX_FAILURES
    run.reported(TaskKey("c"), SUCCESS)
    assert end_of(run) == ("Failed", "MaxFailures")


def test_without_max_failures_all_tasks_of_a_tolerated_step_run() -> None:
    """10: a failure stops only what the run's failure stops."""
    run = begun(step("a", forEach=[1, 2, 3], parallelism=1, continueOnFailure=True))
    for index in range(3):
        run.reported(key(index), failed() if index != 1 else SUCCESS)
    assert (run.steps["a"].phase, run.steps["a"].reason) == (Phase.FAILED, Reason.TASKS_FAILED)
    assert run.steps["a"].message.startswith("2 of 3 tasks failed; first: ")
    assert end_of(run) == ("Succeeded", None)
