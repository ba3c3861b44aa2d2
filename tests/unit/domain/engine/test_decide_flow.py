"""How runs go through their steps: order, failure, skipping, ends."""

from typing import Any

import pytest
from tests.unit.domain.builders import view_of_task, view_of_workflow
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import FATAL, SUCCESS, Run

from perdure.domain.engine.observed import Observed
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report, TaskKey


def started(*steps: dict[str, Any], **fields: Any) -> Run:
    run = Run(view_of_workflow(*steps, **fields))
    run.settle()
    return run


def step(name: str, *needed: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "dependsOn": list(needed), **fields}


A, B, C, D = (TaskKey(name) for name in "abcd")


def test_a_run_of_one_step() -> None:
    run = started(step("a"), outputs={"n": "${steps.a.output.n}"})
    assert run.types() == ["workflow.created", "workflow.started", "task.scheduled"]
    assert (run.phase, run.phases()) == (Phase.RUNNING, {"a": "Running"})
    assert (run.tasks[A].phase, run.tasks[A].reason) == (Phase.PENDING, Reason.STARTING)
    run.now = at(5)
    run.started(A)
    assert (run.tasks[A].phase, run.tasks[A].started_at) == (Phase.RUNNING, at(5))
    run.now = at(9)
    run.reported(A, SUCCESS)
    assert run.types(since=3) == ["task.started", "task.succeeded", "workflow.succeeded"]
    assert (run.phase, run.run.outputs) == (Phase.SUCCEEDED, {"n": 1})
    assert (run.run.started_at, run.run.finished_at) == (START, at(9))


def test_a_run_that_ended_decides_nothing_any_more() -> None:
    run = started(step("a"))
    run.reported(A, SUCCESS)
    for observed in (
        Observed(),
        Observed(deleted=True),
        Observed(pods={A: run.pod(A)}, gone=frozenset({A}), reports={A: (1, FATAL)}),
    ):
        assert run.decide(observed).commit is None


def test_the_next_step_starts_in_the_same_commit_as_the_result() -> None:
    run = started(step("a"), step("b", "a"), step("c", "b"))
    assert run.open == [A]
    run.reported(A, SUCCESS)
    assert run.open == [B]
    assert run.types(since=3) == ["task.started", "task.succeeded", "task.scheduled"]


def test_a_diamond_joins() -> None:
    run = started(
        step("d", input={"b": "${steps.b.output.n}", "c": "${steps.c.output.n}"}),
        step("b", "a"),
        step("c", "a"),
        step("a"),
    )
    assert run.open == [A]
    run.reported(A, SUCCESS)
    assert run.open == [B, C]
    run.reported(C, SUCCESS)
    assert run.open == [B]
    run.reported(B, SUCCESS)
    assert run.open == [D]
    assert run.tasks[D].input == {"b": 1, "c": 1}


def test_after_a_failure_nothing_starts_and_what_runs_goes_on() -> None:
    """10: FinishRunning."""
    run = started(step("a"), step("b"), step("after-a", "a"), step("after-b", "b"), step("later", "after-b"))
    run.reported(A, FATAL)
    assert run.phase is Phase.RUNNING
    assert run.phases() == {"a": "Failed", "b": "Running", "after-a": "Skipped"}
    run.reported(B, SUCCESS)
    assert run.phases() == {
        "a": "Failed",
        "b": "Succeeded",
        "after-a": "Skipped",
        "after-b": "Skipped",
        "later": "Skipped",
    }
    reasons = {name: record.reason for name, record in run.steps.items() if record.phase is Phase.SKIPPED}
    assert reasons == {
        "after-a": Reason.DEPENDENCY_NOT_MET,
        "after-b": Reason.WORKFLOW_FAILED,
        "later": Reason.DEPENDENCY_NOT_MET,
    }
    assert "'a' did not succeed" in run.steps["after-a"].message
    assert (run.phase, run.run.reason) == (Phase.FAILED, Reason.AGENT_FAILURE)
    assert run.run.message == "step 'a' failed: no hope"
    skipped = [event.data["step"] for event in run.events if event.type == "task.skipped"]
    assert skipped == ["after-a", "after-b", "later"]


def test_a_failing_run_keeps_the_retries_of_what_runs() -> None:
    run = started(step("a"), step("b", retry={"limit": 1}))
    run.reported(A, FATAL)
    run.exited(B, code=1)
    assert run.tasks[B].retry_at is not None
    run.settle(now=at(100))
    assert run.open == [B]
    run.reported(B, SUCCESS)
    assert (run.phase, run.phases()) == (Phase.FAILED, {"a": "Failed", "b": "Succeeded"})


def test_several_failures_are_counted_in_the_runs_message() -> None:
    run = started(step("a"), step("b"), step("c"))
    run.settle(Observed(reports=dict.fromkeys((C, B, A), (1, FATAL))))
    assert run.run.message == "step 'a' failed (and 2 more): no hope"


def test_a_step_that_waits_for_its_turn_is_pending_and_skipped_after_a_failure() -> None:
    """10: what never started ends Skipped. 21: parallelism counts tasks that are not finished."""
    run = started(step("a"), step("b"), parallelism=1)
    assert run.phases() == {"a": "Running", "b": "Pending"}
    record = run.steps["b"]
    assert (record.reason, record.message) == (Reason.PARALLELISM, "parallelism 1 is used up")
    assert record.started_at is None
    run.reported(A, FATAL)
    assert run.phases() == {"a": "Failed", "b": "Skipped"}
    assert run.steps["b"].reason is Reason.WORKFLOW_FAILED
    assert run.phase is Phase.FAILED


def test_a_step_that_waited_for_its_turn_starts_when_it_comes() -> None:
    run = started(step("a"), step("b"), parallelism=1)
    run.now = at(7)
    run.reported(A, SUCCESS)
    assert run.phases() == {"a": "Succeeded", "b": "Running"}
    assert run.steps["b"].started_at == at(7)
    assert (run.steps["b"].reason, run.steps["b"].message) == (None, "")


# --- the values that expressions have


def test_what_expressions_see() -> None:
    """13, 19: the values of steps and of the run."""
    run = started(
        step("a", retry={"limit": 1}),
        step(
            "b",
            input={
                "step": "${steps.a}",
                "run": "${workflow}",
                "took": "${steps.a.finishedAt - steps.a.startedAt}",
                "in": "${inputs.x}",
            },
        ),
        inputs={"x": [1, None]},
    )
    run.exited(A, code=3)
    run.settle(now=at(60))
    run.exited(A, code=0, message='{"n": 5}')
    assert run.tasks[B].input == {
        "step": {
            "phase": "Succeeded",
            "output": {"n": 5},
            "attempts": 2,
            "exitCode": 0,
            "startedAt": "2024-05-01T12:00:00Z",
            "finishedAt": "2024-05-01T12:01:00Z",
        },
        "run": {"name": "audit", "namespace": "team", "uid": run.run.uid, "phase": "Running"},
        "took": "60s",
        "in": [1, None],
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": {"x": "${inputs.gone}"}}, "input.x: ${inputs.gone}: no such key: 'gone'"),
        ({"agent": {"args": ["a", "${inputs.gone}"]}}, "agent.args[1]: ${inputs.gone}: no such key: 'gone'"),
        ({"agent": {"command": ["${inputs.gone}"]}}, "agent.command[0]: ${inputs.gone}"),
        ({"agent": {"env": [{"name": "E", "value": "${inputs.gone}"}]}}, "agent.env.E: ${inputs.gone}"),
        ({"input": "${1.0 / 0.0}"}, "JSON cannot hold"),
        ({"input": ["${inputs.big}", "${inputs.big}"] * 11}, "bytes of JSON; the limit is 1048576"),
        ({"forEach": "${inputs.gone}"}, "forEach: ${inputs.gone}: no such key: 'gone'"),
        ({"forEach": "${inputs.text}"}, "forEach: must give a list or a map; it gave the str 'x'"),
        ({"forEach": "${null}"}, "forEach: must give a list or a map; it gave null"),
        ({"forEach": "${3}"}, "forEach: must give a list or a map; it gave the int 3"),
    ],
)
def test_an_expression_that_fails_fails_its_step_and_names_the_field(
    fields: dict[str, Any], message: str
) -> None:
    run = started(step("a", **fields), inputs={"text": "x", "big": "x" * 50_000})
    assert (run.phase, run.run.reason) == (Phase.FAILED, Reason.EXPRESSION_ERROR)
    assert message in run.steps["a"].message
    assert message in run.run.message
    assert run.attempts == {}, "no pod is asked for"


def test_an_unguarded_reference_to_a_step_without_output_names_it() -> None:
    run = started(step("a"), step("b", input="${steps.a.output.n}"))
    run.exited(A, message="just text")
    assert run.steps["b"].reason is Reason.EXPRESSION_ERROR
    assert "input: ${steps.a.output.n}: the str 'just text' has no element 'n'" in run.steps["b"].message


def test_outputs_keep_nulls_and_are_evaluated_on_success_only() -> None:
    """14."""
    outputs = {"n": "${steps.a.output.n}", "none": None, "all": ["${steps.a.output}"]}
    run = started(step("a"), outputs=outputs)
    run.reported(A, Report(outcome="Succeeded", output=payload_of({"n": None}), at=START))
    assert run.run.outputs == {"n": None, "none": None, "all": [{"n": None}]}
    run = started(step("a"), outputs=outputs)
    run.reported(A, FATAL)
    assert (run.phase, run.run.outputs) == (Phase.FAILED, None)


def test_outputs_that_fail_fail_the_run() -> None:
    run = started(step("a"), outputs={"r": {"x": "${steps.a.output.gone}"}})
    run.reported(A, SUCCESS)
    assert (run.phase, run.run.reason) == (Phase.FAILED, Reason.EXPRESSION_ERROR)
    assert run.run.message == "spec.outputs.r.x: ${steps.a.output.gone}: no such key: 'gone'"
    assert run.types()[-1] == "workflow.failed"


# --- deletion


def test_a_deleted_run_is_cancelled_whole() -> None:
    run = started(step("a"), step("b"), step("c", "a"), step("d"), parallelism=2)
    run.started(A)
    run.settle(Observed(deleted=True, reports={B: (1, SUCCESS)}))
    assert (run.phase, run.run.reason) == (Phase.CANCELLED, Reason.DELETED)
    assert set(run.phases().values()) == {"Cancelled"}
    assert {task.phase for task in run.tasks.values()} == {Phase.CANCELLED}
    assert [attempt.outcome for attempt in run.attempts.values()] == [Phase.CANCELLED] * 2
    assert run.types()[-3:] == ["task.cancelled", "task.cancelled", "workflow.cancelled"]


def test_a_deleted_run_has_the_events_of_the_starts_until_then() -> None:
    run = started(step("a"), step("b"))
    run.settle(Observed(deleted=True, pods={A: run.pod(A), B: run.pod(B, started_at=None)}))
    assert run.types()[-4:] == ["task.started", "task.cancelled", "task.cancelled", "workflow.cancelled"]
    assert run.attempts[A, 1].started_at is not None
    assert run.attempts[B, 1].started_at is None


def test_a_deleted_run_keeps_what_had_ended() -> None:
    run = started(step("a"), step("b"), step("c", retry={"limit": 1}))
    run.reported(A, SUCCESS)
    run.exited(C, code=1)
    run.settle(Observed(deleted=True))
    assert run.phases() == {"a": "Succeeded", "b": "Cancelled", "c": "Cancelled"}
    assert run.tasks[C].retry_at is None


# --- standalone AgentTasks


def test_a_standalone_task_is_its_own_run() -> None:
    run = Run(view_of_task("alone", retry={"limit": 1}, input={"run": "${workflow.name}"}))
    run.settle()
    key = TaskKey("")
    assert (run.tasks[key].name, run.attempts[key, 1].pod_name) == ("alone", "alone-1")
    assert run.tasks[key].input == {"run": "alone"}
    run.exited(key, code=1)
    run.settle(now=at(10))
    run.reported(key, SUCCESS)
    assert run.phase is Phase.SUCCEEDED
    assert run.types() == [
        "task.scheduled",
        "task.started",
        "task.retrying",
        "task.scheduled",
        "task.started",
        "task.succeeded",
    ]
    assert {event.task for event in run.events} == {"alone"}
    assert all("step" not in event.data for event in run.events)


def test_a_standalone_tasks_failure_names_no_step() -> None:
    run = Run(view_of_task("alone"))
    run.settle()
    run.reported(TaskKey(""), FATAL)
    assert (run.phase, run.run.reason, run.run.message) == (Phase.FAILED, Reason.AGENT_FAILURE, "no hope")
