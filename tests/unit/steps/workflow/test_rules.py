"""The decisions of `workflow` steps: a child's phases, its failures and its place in the parent (20, 21)."""

from typing import Any

import pytest
from tests.unit.domain.cases import A, B, begun, end_of, step
from tests.unit.domain.clock import at
from tests.unit.domain.runs import Run

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey
from perdure.steps.workflow.rules import render_workflow

CHILD: dict[str, Any] = {"templateRef": "child", "inputs": {"x": "${inputs.x}"}}


def parent(**fields: Any) -> Run:
    run = begun(
        step("a", workflow=CHILD, **fields), step("b", input="${steps.a.output}"), inputs={"x": [1, None]}
    )
    assert run.open == [A]
    return run


def test_a_childs_outputs_are_the_steps_output() -> None:
    """20."""
    run = parent()
    run.child_is(A, Phase.PENDING)
    assert run.tasks[A].phase is Phase.PENDING
    run.now = at(5)
    run.child_is(A, Phase.RUNNING)
    assert (run.tasks[A].phase, run.attempts[A, 1].started_at) == (Phase.RUNNING, at(5))
    run.child_is(A, Phase.SUCCEEDED, outputs={"n": [1, None]})
    assert run.tasks[A].output == {"n": [1, None]}
    assert run.tasks[B].input == {"n": [1, None]}
    assert run.tasks[A].exit_code is None


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"phase": Phase.FAILED, "reason": Reason.OOM_KILLED, "message": "step 'x' failed"},
            "child workflow {} ended as Failed (OOMKilled): step 'x' failed",
        ),
        ({"phase": Phase.FAILED}, "child workflow {} ended as Failed"),
        (
            {"phase": Phase.CANCELLED, "reason": Reason.CANCELLED},
            "child workflow {} ended as Cancelled (Cancelled)",
        ),
    ],
)
def test_a_child_that_did_not_succeed_fails_its_step(facts: dict[str, Any], message: str) -> None:
    """6: ChildFailed, with the child's own reason in the message."""
    run = parent()
    run.child_is(A, **facts)
    assert run.tasks[A].reason is Reason.CHILD_FAILED
    assert run.tasks[A].message == message.format(run.attempts[A, 1].pod_name)
    assert end_of(run) == ("Failed", "ChildFailed")


def test_a_child_that_failed_is_made_again_if_the_step_says_so() -> None:
    run = parent(retry={"limit": 1, "backoff": {"initial": "5s", "jitter": 0}})
    names = {run.attempts[A, 1].pod_name}
    run.child_is(A, Phase.FAILED)
    assert run.tasks[A].retry_at == at(5)
    run.settle(now=at(5))
    names.add(run.attempts[A, 2].pod_name)
    assert len(names) == 2
    run.child_is(A, Phase.SUCCEEDED, outputs={})
    assert run.tasks[A].phase is Phase.SUCCEEDED


def test_a_child_that_a_user_cancelled_is_not_created_again() -> None:
    run = parent(retry={"limit": 5})
    run.child_is(A, Phase.CANCELLED)
    assert (run.tasks[A].phase, run.tasks[A].retries) == (Phase.FAILED, 0)


def test_a_child_that_was_deleted_has_failed() -> None:
    run = parent(retry={"limit": 1})
    name = run.attempts[A, 1].pod_name
    run.gone(A)
    assert run.tasks[A].message == f"child workflow {name} was deleted"
    assert (run.tasks[A].retries, run.tasks[A].disruptions) == (1, 0), (
        "the deletion of a user, and no disruption"
    )
    run.settle(now=at(10))
    run.gone(A)
    assert end_of(run) == ("Failed", "ChildFailed")


def test_an_observation_of_another_child_is_ignored() -> None:
    run = parent()
    run.note_pods(A)
    stranger = run.child(A, Phase.SUCCEEDED, uid="uid-of-another")
    assert run.decide(Observed(children={A: stranger})).commit is None


def test_a_childs_timeout_counts_from_its_start() -> None:
    """24."""
    run = parent(timeout="10s", retry={"limit": 1})
    run.settle(now=at(100))
    assert run.requeue_at is None
    run.child_is(A, Phase.RUNNING)
    assert run.requeue_at == at(110)
    run.settle(now=at(110))
    assert run.tasks[A].last_failure is not None
    assert run.tasks[A].last_failure["reason"] == "Timeout"
    assert run.attempts[A, 1].closed_at == at(110)


def test_a_child_is_not_asked_to_leave_for_a_pause() -> None:
    """23: it is paused as well, and goes on with its parent."""
    run = parent(timeout="10s")
    run.child_is(A, Phase.RUNNING)
    run.want("Paused", now=at(4))
    assert run.attempts[A, 1].stopping is None
    assert run.open == [A]
    assert run.requeue_at is None
    run.settle(now=at(3600))
    run.want("Running", now=at(3604))
    assert run.tasks[A].attempt == 1
    assert run.requeue_at == at(3610), "its clock stood still"


def test_a_child_that_is_seen_to_start_in_a_pause_has_its_whole_time_left() -> None:
    run = parent(timeout="10s")
    run.want("Paused", now=at(4))
    run.now = at(50)
    run.child_is(A, Phase.PAUSED)
    run.want("Running", now=at(100))
    assert (run.attempts[A, 1].started_at, run.requeue_at) == (at(100), at(110))


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED])
def test_a_child_that_ends_in_a_pause_has_ended(phase: Phase) -> None:
    run = begun(step("a", workflow=CHILD, retry={"limit": 1}), inputs={"x": 1})
    run.want("Paused")
    run.child_is(A, phase, outputs={})
    if phase is Phase.SUCCEEDED:
        assert end_of(run) == ("Succeeded", None)
    else:
        assert (run.tasks[A].phase, run.tasks[A].retries) == (Phase.PAUSED, 1)
        run.want("Running")
        assert run.tasks[A].reason is Reason.BACKOFF


def test_a_cancel_closes_the_childs_attempt() -> None:
    run = parent()
    run.child_is(A, Phase.RUNNING)
    run.want("Cancelled")
    assert run.attempts[A, 1].outcome is Phase.CANCELLED
    assert end_of(run) == ("Cancelled", "Cancelled")


def test_children_count_in_the_runs_parallelism_and_take_no_slot() -> None:
    """21."""
    run = begun(
        step("a", forEach=[1, 2, 3], workflow=CHILD), step("b"), inputs={"x": 1}, parallelism=2, limit=0
    )
    assert run.open == [TaskKey("a", 0), TaskKey("a", 1)]
    assert run.wants == 0, "there is no room for the agent, slot or not"
    assert run.view.slots == 0


def test_a_childs_inputs_are_evaluated_before_it_is_made() -> None:
    run = begun(step("a", workflow={"templateRef": "child", "inputs": {"x": "${inputs.gone}"}}))
    assert end_of(run) == ("Failed", "ExpressionError")
    assert run.tasks[A].message == "workflow.inputs.x: ${inputs.gone}: no such key: 'gone'"
    big = ["${inputs.big}"] * 25
    run = begun(
        step("a", workflow={"templateRef": "child", "inputs": {"x": big}}), inputs={"big": "x" * 50_000}
    )
    assert "workflow: 125" in run.tasks[A].message


@pytest.mark.parametrize(
    ("block", "spec"),
    [
        (
            {"templateRef": "child", "inputs": {"i": "${item}"}},
            {"templateRef": "child", "inputs": {"i": "y"}},
        ),
        (
            {"spec": {"steps": [{"name": "s", "input": "${inputs.i}"}]}, "inputs": {"i": "${item}"}},
            {"steps": [{"name": "s", "input": "${inputs.i}"}], "inputs": {"i": "y"}},
        ),
        ({"spec": {"steps": [{"name": "s"}]}}, {"steps": [{"name": "s"}], "inputs": {}}),
    ],
)
def test_the_spec_of_a_child(block: dict[str, Any], spec: dict[str, Any]) -> None:
    """5: the child's own expressions belong to the child."""
    run = begun(step("a", forEach=["x", "y"], workflow=block))
    planned = run.view.plan.steps["a"]
    names = TaskScope(ChangeSet(run.view, run.now), planned, 1).names
    assert render_workflow(planned, names) == spec


def test_children_in_a_loop_and_a_fan() -> None:
    loop = {"until": "${last.n == 2}", "maxIterations": 5}
    run = begun(step("a", workflow=CHILD, repeat=loop), inputs={"x": 1}, outputs={"n": "${steps.a.output.n}"})
    run.child_is(TaskKey("a", 0), Phase.SUCCEEDED, outputs={"n": 1})
    run.child_is(TaskKey("a", 1), Phase.SUCCEEDED, outputs={"n": 2})
    assert run.run.outputs == {"n": 2}
    run = begun(
        step("a", workflow=CHILD, forEach=[1, 2]), inputs={"x": 1}, outputs={"n": "${steps.a.outputs}"}
    )
    run.child_is(TaskKey("a", 1), Phase.SUCCEEDED, outputs={"n": 2})
    run.child_is(TaskKey("a", 0), Phase.SUCCEEDED, outputs={"n": 1})
    assert run.run.outputs == {"n": [{"n": 1}, {"n": 2}]}
