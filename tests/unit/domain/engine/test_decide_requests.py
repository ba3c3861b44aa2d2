"""What is too dear for a decision is asked for, and decided with the answers."""

from dataclasses import replace
from typing import Any

from tests.unit.domain.answering import answered, answers
from tests.unit.domain.builders import view_of_workflow
from tests.unit.domain.cases import A, B, begun, step
from tests.unit.domain.runs import Run

from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.pod_facts import ContainerExit
from perdure.domain.expressions.evaluation import Answer
from perdure.domain.payloads import value_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey

#: A macro, which no decision evaluates itself.
DEAR = "[1, 2].exists(x, x == 2)"
FAILED = ContainerExit(code=3, reason="Error", message="")


def sources(run: Run, observed: Observed | None = None) -> list[str]:
    """What the next decision would ask for."""
    decision = decide(run.view, observed or Observed(), run.now)
    return sorted(request.source for request in decision.requests.values())


def test_a_cheap_expression_is_not_asked_for() -> None:
    run = Run(view_of_workflow({"name": "a", "when": "${inputs.n + 1 == 2}"}, inputs={"n": 1}))
    assert sources(run) == []
    assert decide(run.view, Observed(), run.now).commit is not None


def test_a_step_waits_for_what_it_asks_for_and_the_other_steps_go_on() -> None:
    run = Run(view_of_workflow({"name": "a", "when": f"${{{DEAR}}}"}, {"name": "b"}))
    decision = decide(run.view, Observed(), run.now)
    assert [request.source for request in decision.requests.values()] == [DEAR]
    assert decision.commit is not None
    assert [record.name for record in decision.commit.steps] == ["b"]
    run.settle()
    assert run.open == [A, B]


def test_all_that_a_task_needs_is_asked_for_at_once() -> None:
    spec = {
        "name": "a",
        "input": {"x": f"${{{DEAR}}}", "y": "${[1].map(x, x)}"},
        "agent": {"image": "x", "args": ["${[2].map(x, x)}", "a ${[3].map(x, x)} and ${[4].map(x, x)}"]},
    }
    run = Run(view_of_workflow(spec))
    assert sources(run) == sorted([DEAR, *(f"[{number}].map(x, x)" for number in (1, 2, 3, 4))])
    run.settle()
    assert run.tasks[A].input == {"x": True, "y": [1]}


def test_the_tasks_of_a_fan_out_ask_together_and_are_made_in_order() -> None:
    fan = {"name": "a", "forEach": [1, 2, 3], "input": "${item == 2 ? 0 : [item].map(x, x)[0]}"}
    run = Run(view_of_workflow(fan))
    decision = decide(run.view, Observed(), run.now)
    assert len(decision.requests) == 3
    assert decision.commit is not None
    assert decision.commit.tasks == ()
    # Only the last is answered: the tasks before it are made first.
    (*_, last) = decision.requests.values()
    partly = Observed(answers=answers([last]))
    following = decide(run.view, partly, run.now)
    assert following.commit is not None
    assert following.commit.tasks == ()
    assert len(following.requests) == 2
    run.settle()
    assert [run.tasks[TaskKey("a", index)].input for index in range(3)] == [1, 0, 3]


def test_an_error_of_an_earlier_field_wins_over_one_that_is_known_before() -> None:
    fields = {"input": {"a": "${[1].map(x, x / 0)}", "b": "${1 / 0}"}}
    run = Run(view_of_workflow({"name": "a", **fields}))
    assert sources(run) == ["[1].map(x, x / 0)"]
    run.settle()
    assert run.tasks[A].message.startswith("input.a: ")


def test_what_is_seen_of_an_attempt_is_kept_until_retry_on_is_answered() -> None:
    retry = {"limit": 1, "on": "${[attempt.exitCode].exists(x, x == 3)}"}
    run = begun(step("a", retry=retry), step("b"))
    observed = Observed(pods={A: run.pod(A, exit=FAILED), B: run.pod(B)})
    decision = decide(run.view, run.standing(observed), run.now)
    assert (decision.held, decision.commit) == (True, None)
    assert len(decision.requests) == 1
    run.settle(observed)
    assert run.tasks[A].reason is Reason.BACKOFF
    assert run.tasks[B].phase is Phase.RUNNING


def test_a_run_ends_with_its_outputs_once_they_are_evaluated() -> None:
    run = begun(step("a"), outputs={"o": f"${{{DEAR}}}"})
    observed = Observed(pods={A: run.pod(A, exit=ContainerExit(code=0, reason="", message=""))})
    decision = decide(run.view, observed, run.now)
    assert decision.commit is not None
    assert decision.commit.run.phase is Phase.RUNNING
    assert len(decision.requests) == 1
    run.settle(observed)
    assert (run.phase, run.run.outputs) == (Phase.SUCCEEDED, {"o": True})


def test_a_loop_goes_on_once_until_is_evaluated() -> None:
    loop = {"until": "${[last].exists(x, x == 'done')}", "maxIterations": 3}
    run = begun(step("a", repeat=loop))
    for index in (0, 1):
        run.exited(TaskKey("a", index), message='"more"')
    run.exited(TaskKey("a", 2), message='"done"')
    assert run.steps["a"].phase is Phase.SUCCEEDED


def test_an_answer_is_never_applied_to_other_values() -> None:
    def asked(value: Any) -> str:
        run = Run(view_of_workflow({"name": "a", "input": "${[inputs.v].map(x, x)}"}, inputs={"v": value}))
        (key,) = decide(run.view, Observed(), run.now).requests
        return key

    assert asked(1) == asked(1)
    assert len({asked(value) for value in (1, 2, "1", [1], {"a": 1}, None, True, 1.0)}) == 8


def test_an_error_as_an_answer_fails_the_step_with_its_path() -> None:
    run = Run(view_of_workflow({"name": "a", "when": f"${{{DEAR}}}"}))
    (key,) = decide(run.view, Observed(), run.now).requests
    observed = Observed(answers={key: Answer(error="too much work")})
    commit = decide(run.view, observed, run.now).commit
    assert commit is not None
    assert (commit.run.reason, commit.steps[0].message) == (Reason.EXPRESSION_ERROR, "when: too much work")


def test_values_that_are_large_are_not_evaluated_in_place() -> None:
    inputs = {"few": ["x"] * 50, "many": ["x"] * 500, "long": "x" * 5000}
    run = Run(view_of_workflow({"name": "a", "when": "${size(inputs.few) == 50}"}, inputs=inputs))
    assert sources(run) == ["size(inputs.few) == 50"], "inputs are converted as a whole"
    run = Run(view_of_workflow({"name": "a", "input": "${inputs.many}"}, inputs=inputs))
    assert sources(run) == [], "a plain path is only copied"
    run = Run(view_of_workflow({"name": "a", "input": "${inputs}"}, inputs={"m": [[]] * 3000}))
    assert sources(run) == ["inputs"]


def test_the_answered_decision_is_the_one_that_evaluates_in_place() -> None:
    run = Run(view_of_workflow({"name": "a", "forEach": "${lists.range(3)}", "input": "${[item].map(x, x)}"}))
    decision = decide(run.view, answered(run.view, Observed(), run.now), run.now)
    assert decision.requests == {}
    assert decision.commit is not None
    assert [value_of(task.input) for task in decision.commit.tasks] == [[0], [1], [2]]
    assert replace(decision, used=frozenset()) == decision, "which answers it used is no part of it"
