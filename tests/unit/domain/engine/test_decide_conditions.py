"""What decides whether a step runs: its dependencies, its condition, and failures elsewhere (8, 9, 10)."""

from typing import Any

import pytest
from tests.unit.domain.cases import BAD_CONDITIONS, A, B, C, D, E, begun, end_of, failed, gave, reasons, step
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS, Run

from perdure.domain.engine.observed import Observed
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey

# --- 8: without a condition


@pytest.mark.parametrize(
    ("first", "report", "phase", "reason"),
    [
        ({}, SUCCESS, "Running", None),
        ({}, failed(), "Skipped", "DependencyNotMet"),
        ({"continueOnFailure": True}, failed(), "Running", None),
        ({"continueOnFailure": True}, SUCCESS, "Running", None),
    ],
)
def test_a_step_runs_if_what_it_waits_for_succeeded_or_failed_tolerably(
    first: dict[str, Any], report: Any, phase: str, reason: str | None
) -> None:
    """8."""
    run = begun(step("a", **first), step("b", "a"))
    run.reported(A, report)
    assert (run.phases()["b"], reasons(run)["b"]) == (phase, reason)


def test_a_skip_passes_on_to_all_that_depend_on_it() -> None:
    """8: a step that was skipped is no dependency that is met, however it came to be skipped."""
    run = begun(
        step("a", when="${false}"), step("b", "a"), step("c", "b"), step("d", "b", when="${true}"), step("e")
    )
    run.reported(E, SUCCESS)
    assert reasons(run) == {
        "a": "ConditionFalse",
        "b": "DependencyNotMet",
        "c": "DependencyNotMet",
        "d": None,
        "e": None,
    }
    assert run.open == [D]
    assert "step 'b' did not succeed" in run.steps["c"].message
    run.reported(D, SUCCESS)
    assert end_of(run) == ("Succeeded", None)


def test_continue_on_failure_makes_no_skip_of_the_step_itself_a_success() -> None:
    """8: it is the failure that is tolerated."""
    run = begun(step("a", when="${false}", continueOnFailure=True), step("b", "a"))
    assert reasons(run) == {"a": "ConditionFalse", "b": "DependencyNotMet"}


# --- 9: with a condition


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("${true}", True),
        ("${false}", False),
        ("${steps.a.phase == 'Failed'}", True),
        ("${steps.a.phase == 'Succeeded'}", False),
        ("${steps.a.exitCode == 7}", True),
        ("${steps.a.attempts == 2}", True),
        ("${steps.a.reason == 'ExitCode' && steps.a.message.contains('7')}", True),
        ("${has(steps.a.output)}", False),
        ("${inputs.wanted}", True),
        ("${workflow.phase == 'Running'}", True),
        ("${steps.a.finishedAt - steps.a.startedAt > duration('1s')}", True),
    ],
)
def test_a_condition_alone_decides(condition: str, runs: bool) -> None:
    """9: over phases, outputs, exit codes; the dependency's failure matters only if the condition says so."""
    first = step("a", continueOnFailure=True, retry={"limit": 1})
    run = begun(first, step("b", "a", when=condition), inputs={"wanted": True})
    run.started(A)
    run.exited(A, code=7)
    assert "b" not in run.steps, "it is decided once all dependencies are terminal"
    run.settle(now=at(10))
    run.started(A)
    run.exited(A, code=7)
    if runs:
        assert run.open == [B]
    else:
        assert reasons(run)["b"] == "ConditionFalse"
        assert run.steps["b"].phase is Phase.SKIPPED
        assert end_of(run) == ("Succeeded", None)


def test_a_condition_waits_for_all_it_refers_to_and_sees_their_outputs() -> None:
    """9: a reference is a dependency."""
    run = begun(step("a"), step("b"), step("c", when="${steps.a.output.n + steps.b.output.n > 2}"))
    run.reported(A, gave({"n": 1}))
    assert "c" not in run.steps
    run.reported(B, gave({"n": 2}))
    assert run.open == [C]


@pytest.mark.parametrize(("condition", "message"), BAD_CONDITIONS)
def test_a_condition_that_is_none_fails_its_step(condition: str, message: str) -> None:
    """9."""
    run = begun(step("a", when=condition))
    assert end_of(run) == ("Failed", "ExpressionError")
    assert run.steps["a"].message == f"when: {message}"
    assert run.tasks == {}


@pytest.mark.parametrize("when", ["${steps.a.output.n == 1}", "${steps.a.outputs.size() == 1}"])
def test_a_condition_over_what_is_not_there_names_the_step(when: str) -> None:
    """9, 13: unguarded use of a skipped step's output is an error that says what to do."""
    run = begun(step("a", when="${false}"), step("b", when=when))
    assert end_of(run) == ("Failed", "ExpressionError")
    assert "step 'a' is Skipped and has no output; guard the reference with has()" in run.steps["b"].message
    guarded = when.replace("${", "${!has(steps.a.output) || ")
    run = begun(step("a", when="${false}"), step("b", when=guarded))
    assert run.open == [B]


def test_a_condition_is_evaluated_once() -> None:
    """9: what was decided stays, whatever is so later."""
    run = begun(step("a"), step("b", when="${workflow.phase == 'Running'}"), parallelism=1)
    assert run.phases() == {"a": "Running", "b": "Pending"}
    run.reported(A, SUCCESS)
    assert run.open == [B]


# --- 10: recovery, and the failure policies


def test_a_recovery_branch() -> None:
    """10: it needs continueOnFailure on the step that it recovers from; then the run succeeds."""
    run = begun(
        step("a", continueOnFailure=True),
        step("recover", when="${steps.a.phase == 'Failed'}", input={"why": "${steps.a.message}"}),
        step("go-on", when="${steps.a.phase == 'Succeeded'}"),
    )
    run.reported(A, failed("disk full"))
    key = TaskKey("recover")
    assert run.tasks[key].input == {"why": "disk full"}
    assert run.phases()["go-on"] == "Skipped"
    run.reported(key, SUCCESS)
    assert end_of(run) == ("Succeeded", None)


def test_without_continue_on_failure_a_recovery_branch_does_not_start() -> None:
    """10: the failure fails the run, and nothing further starts."""
    run = begun(step("a"), step("b", when="${steps.a.phase == 'Failed'}"))
    run.reported(A, failed())
    assert reasons(run) == {"a": "AgentFailure", "b": "DependencyNotMet"}
    assert end_of(run) == ("Failed", "AgentFailure")


def policy_run(policy: str) -> Run:
    """One step fails while others run, queue, wait for a retry, or have no decision yet.

    `a` fails; `b` runs; `c` waits for its retry; `d` has run one of four items, one runs and two are queued;
    `later` waits for `b`, which will succeed, `never` for `a`.
    """
    run = begun(
        step("a"),
        step("b"),
        step("c", retry={"limit": 1}),
        step("d", forEach=[1, 2, 3, 4], parallelism=1),
        step("later", "b"),
        step("never", "a"),
        failurePolicy=policy,
    )
    run.reported(TaskKey("d", 0), SUCCESS)
    run.exited(C, code=1)
    run.reported(A, failed())
    return run


def test_finish_running_starts_no_further_step_and_lets_running_tasks_end() -> None:
    """10: starts no further step; what runs goes on, and keeps its retries; what is queued never starts."""
    run = policy_run("FinishRunning")
    assert run.open == [B, TaskKey("d", 1)]
    assert run.tasks[C].reason is Reason.BACKOFF
    assert reasons(run)["never"] == "DependencyNotMet"
    run.settle(now=at(10))
    assert run.open == [B, C, TaskKey("d", 1)]
    run.settle(Observed(reports={B: (1, SUCCESS), C: (2, SUCCESS), TaskKey("d", 1): (1, SUCCESS)}))
    assert run.phases() == {
        "a": "Failed",
        "b": "Succeeded",
        "c": "Succeeded",
        "d": "Cancelled",
        "later": "Skipped",
        "never": "Skipped",
    }
    assert reasons(run)["later"] == "WorkflowFailed"
    assert (reasons(run)["d"], run.steps["d"].message) == (
        "WorkflowFailed",
        "the run failed when 2 of 4 tasks had run",
    )
    assert end_of(run) == ("Failed", "AgentFailure")


def test_cancel_running_stops_running_and_retrying_tasks_at_once() -> None:
    """10: stops what runs at once, and what waits for its retry too."""
    run = policy_run("CancelRunning")
    assert end_of(run) == ("Failed", "AgentFailure")
    stopped = {key: task for key, task in run.tasks.items() if task.phase is Phase.CANCELLED}
    assert sorted(stopped) == [B, C, TaskKey("d", 1)]
    assert {task.reason for task in stopped.values()} == {Reason.WORKFLOW_FAILED}
    assert run.attempts[B, 1].outcome is Phase.CANCELLED
    assert run.tasks[C].retry_at is None
    assert run.phases() == {
        "a": "Failed",
        "b": "Cancelled",
        "c": "Cancelled",
        "d": "Cancelled",
        "later": "Skipped",
        "never": "Skipped",
    }
    assert run.steps["d"].message == "the run failed when 1 of 4 tasks had run"


def test_run_all_starts_every_step_that_can_run_and_fails_at_the_end() -> None:
    """10: goes on with all that can still run, and fails in the end."""
    run = policy_run("RunAll")
    assert run.open == [B, TaskKey("d", 1)]
    run.settle(Observed(reports={B: (1, SUCCESS), TaskKey("d", 1): (1, SUCCESS)}), now=at(10))
    assert run.open == [C, TaskKey("d", 2), TaskKey("later")]
    run.settle(Observed(reports={key: (run.tasks[key].attempt, SUCCESS) for key in run.open}))
    run.reported(TaskKey("d", 3), SUCCESS)
    assert {name for name, phase in run.phases().items() if phase != "Succeeded"} == {"a", "never"}
    assert reasons(run)["never"] == "DependencyNotMet"
    assert end_of(run) == ("Failed", "AgentFailure")


@pytest.mark.parametrize("policy", ["FinishRunning", "CancelRunning", "RunAll"])
def test_a_tolerated_failure_is_none_to_any_policy(policy: str) -> None:
    """10."""
    run = begun(step("a", continueOnFailure=True), step("b"), step("c", "a", "b"), failurePolicy=policy)
    run.reported(A, failed())
    assert run.open == [B]
    run.reported(B, SUCCESS)
    run.reported(C, SUCCESS)
    assert end_of(run) == ("Succeeded", None)


@pytest.mark.parametrize("policy", ["FinishRunning", "CancelRunning"])
def test_a_step_that_never_started_says_whether_its_dependency_or_the_run_failed(policy: str) -> None:
    """10: DependencyNotMet where a dependency was terminal and not met, else WorkflowFailed."""
    run = begun(
        step("a"),
        step("b"),
        step("met", "b"),
        step("unmet", "a", "b"),
        step("met-when", "b", when="${true}"),
        step("unmet-when", "a", when="${true}"),
        failurePolicy=policy,
    )
    run.settle(Observed(reports={A: (1, failed()), B: (1, SUCCESS)}))
    assert {name: reasons(run)[name] for name in ("met", "unmet", "met-when", "unmet-when")} == {
        "met": "WorkflowFailed",
        "unmet": "DependencyNotMet",
        "met-when": "WorkflowFailed",
        "unmet-when": "DependencyNotMet",
    }
    assert {run.phases()[name] for name in ("met", "unmet", "met-when", "unmet-when")} == {"Skipped"}


@pytest.mark.parametrize("policy", ["FinishRunning", "CancelRunning", "RunAll"])
def test_a_step_that_fails_for_its_own_expression_fails_the_run_like_any_other(policy: str) -> None:
    """10: whatever place it has in the manifest."""
    run = begun(step("a"), step("b", forEach="${3}"), step("c"), failurePolicy=policy)
    assert run.steps["b"].reason is Reason.EXPRESSION_ERROR
    if policy == "CancelRunning":
        assert run.tasks[A].phase is Phase.CANCELLED
    else:
        assert run.open == ([A] if policy == "FinishRunning" else [A, C])
        run.settle(Observed(reports=dict.fromkeys(run.open, (1, SUCCESS))))
    assert end_of(run) == ("Failed", "ExpressionError")
