"""Steps of other kinds than `agent` (5): waiting, and child Workflows (20)."""

from typing import Any

import pytest
from tests.unit.domain.cases import A, B, begun, end_of, failed, phases_of, reasons, step
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import SUCCESS, Run

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey
from perdure.steps.workflow.rules import render_workflow

# --- wait


@pytest.mark.parametrize(
    ("wait", "until"),
    [
        ({"duration": "10s"}, at(10)),
        ({"duration": "1h30m"}, at(5400)),
        ({"duration": "250ms"}, at(0.25)),
        ({"duration": "${inputs.text}"}, at(60)),
        ({"duration": "${duration('90s')}"}, at(90)),
        ({"duration": "${duration('1m') + duration('500ms')}"}, at(60.5)),
        ({"duration": "${string(inputs.n) + 's'}"}, at(5)),
        ({"until": "2024-05-01T12:00:30Z"}, at(30)),
        ({"until": "2024-05-01T14:00:30+02:00"}, at(30)),
        ({"until": "2024-05-01T12:00:30.5Z"}, at(30.5)),
        ({"until": "${timestamp('2024-05-01T12:00:30Z')}"}, at(30)),
        ({"until": "${inputs.moment}"}, at(30)),
        ({"until": "${steps.b.finishedAt + duration('1m')}"}, at(60)),
    ],
)
def test_a_wait_ends_at_its_moment(wait: dict[str, str], until: Any) -> None:
    """5, 19."""
    run = begun(
        step("a", wait=wait), step("b"), inputs={"text": "1m", "n": 5, "moment": "2024-05-01T12:00:30Z"}
    )
    run.reported(B, SUCCESS)
    task = run.tasks[A]
    assert (task.phase, task.reason, task.retry_at) == (Phase.RUNNING, Reason.WAITING, until)
    assert (task.started_at, task.attempt, run.steps["a"].started_at) == (START, 0, START)
    assert run.requeue_at == until
    run.settle(now=until)
    assert end_of(run) == ("Succeeded", None)
    assert [key for key, _ in run.attempts] == [B], "no object is made for it"
    own = [(event.type, event.task) for event in run.events if event.task == task.name]
    assert own == [("task.started", task.name), ("task.succeeded", task.name)]


@pytest.mark.parametrize(
    "wait",
    [{"duration": "0s"}, {"until": "2024-05-01T12:00:00Z"}, {"until": "1999-01-01T00:00:00Z"}],
)
def test_a_wait_that_is_over_takes_no_time(wait: dict[str, str]) -> None:
    run = begun(step("a", wait=wait), step("b", "a"))
    assert run.phases() == {"a": "Succeeded", "b": "Running"}
    assert run.open == [B]


@pytest.mark.parametrize(
    ("wait", "message"),
    [
        ({"duration": "${inputs.gone}"}, "wait.duration: ${inputs.gone}: no such key: 'gone'"),
        ({"duration": "${5}"}, "wait.duration: 5 is not a duration; give one like 10s or 1h30m"),
        ({"duration": "${null}"}, "wait.duration: None is not a duration"),
        ({"duration": "soon"}, "wait.duration: 'soon' is not a duration"),
        ({"duration": "${duration('-5s')}"}, "wait.duration: '-5s' is not a duration"),
        ({"duration": "1000000h"}, "wait.duration: '1000000h' is not a duration"),
        ({"until": "${5}"}, "wait.until: 5 is not a time; give one like 2030-01-31T08:00:00Z"),
        ({"until": "tomorrow"}, "wait.until: 'tomorrow' is not a time"),
        ({"until": "2030-01-31T08:00:00"}, "is not a time"),  # a time without a zone is ambiguous
        ({"until": "9999-12-31T23:59:59-12:00"}, "is not a time"),  # later than the last representable time
    ],
)
def test_a_wait_for_what_is_no_time_fails(wait: dict[str, str], message: str) -> None:
    run = begun(step("a", wait=wait))
    assert end_of(run) == ("Failed", "ExpressionError")
    assert message in run.tasks[A].message


def test_waits_of_a_fan() -> None:
    run = begun(
        step("a", forEach=["5s", "${inputs.bad}", "9s"], wait={"duration": "${item}"}), inputs={"bad": 3}
    )
    assert phases_of(run, "a") == ["Running", "Failed"], "after a failure nothing is queued"
    run = begun(step("a", forEach=["5s", "9s"], wait={"duration": "${item}"}))
    assert run.requeue_at == at(5)
    run.settle(now=at(5))
    assert phases_of(run, "a") == ["Succeeded", "Running"]
    run.settle(now=at(9))
    assert end_of(run) == ("Succeeded", None)


def test_a_wait_takes_no_place_in_the_runs_parallelism_and_no_slot() -> None:
    """21."""
    run = begun(step("a", wait={"duration": "10s"}), step("b"), parallelism=1, limit=0)
    assert run.phases()["a"] == "Running"
    assert run.wants == 1, "the other one"


def test_a_wait_goes_on_while_the_run_fails() -> None:
    """10: it runs."""
    run = begun(step("a", wait={"duration": "10s"}), step("b"))
    run.reported(B, failed())
    assert run.phases() == {"a": "Running", "b": "Failed"}
    run.settle(now=at(10))
    assert end_of(run) == ("Failed", "AgentFailure")


# --- workflow

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


def test_a_skipped_step_of_any_kind() -> None:
    run = begun(
        step("a", workflow=CHILD, when="${false}"), step("b", "a", wait={"duration": "1s"}), inputs={"x": 1}
    )
    assert reasons(run) == {"a": "ConditionFalse", "b": "DependencyNotMet"}
