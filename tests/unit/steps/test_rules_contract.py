"""The engine's side of every step kind, a kind that only tests know included: one contract for all.

`Run` checks every decision besides: made twice, and made again from what the ledger has, a decision is the
same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.echo import WITH_ECHO
from tests.unit.domain.builders import view_of_plan
from tests.unit.domain.cases import reasons
from tests.unit.domain.runs import Run

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.live_run import LiveRun
from perdure.control.status.compute import workflow_status
from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, Report, TaskKey

A = TaskKey("a")
HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """How a test brings a task of one kind forward."""

    #: The block of a step that needs no names.
    block: dict[str, Any]
    begin: Callable[[Run, TaskKey], None]
    #: Let a task that began succeed.
    succeed: Callable[[Run, TaskKey], None]
    #: What the task gives then.
    output: Any


def _report(run: Run, key: TaskKey) -> None:
    run.reported(key, Report(outcome="Succeeded", output=payload_of({"n": 1}), at=run.now))


def _elapse(run: Run, key: TaskKey) -> None:
    assert run.requeue_at is not None
    run.settle(now=max(run.now, run.requeue_at))


DRIVERS: dict[str, Driver] = {
    "agent": Driver(
        block={"image": "agents/audit:1"},
        begin=lambda run, key: run.started(key),
        succeed=_report,
        output={"n": 1},
    ),
    "wait": Driver(block={"duration": "60s"}, begin=lambda run, key: None, succeed=_elapse, output=None),
    "workflow": Driver(
        block={"spec": {"steps": [{"name": "s"}]}, "inputs": {}},
        begin=lambda run, key: run.child_is(key, Phase.RUNNING),
        succeed=lambda run, key: run.child_is(key, Phase.SUCCEEDED, outputs={"n": 1}),
        output={"n": 1},
    ),
    "echo": Driver(
        block={"signal": "go"},
        begin=lambda run, key: None,
        succeed=lambda run, key: run.signalled(key, "go", {"n": 1}),
        output={"n": 1},
    ),
}


@pytest.fixture(params=WITH_ECHO, ids=lambda kind: kind.field)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def driver(kind: Any) -> Driver:
    """A kind without a driver fails every test here: a new kind needs its line above."""
    return DRIVERS[kind.field]


def kinds_that_take(field: str) -> pytest.MarkDecorator:
    """The kinds whose steps may have this field, in place of all kinds."""
    kinds = [kind for kind in WITH_ECHO if kind.takes(field)]
    assert kinds, f"no kind takes {field}: pytest would skip the test"
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.field)


def run_of(kind: Any, *, run: dict[str, Any] | None = None, **fields: Any) -> Run:
    step = {"name": "a", kind.field: DRIVERS[kind.field].block, **fields}
    started = Run(view_of_plan(step, **(run or {})))
    started.settle()
    return started


def test_a_task_succeeds_with_its_output(kind: Any, driver: Driver) -> None:
    run = run_of(kind)
    assert run.phase is Phase.RUNNING
    driver.begin(run, A)
    assert run.tasks[A].phase is Phase.RUNNING
    driver.succeed(run, A)
    assert (run.phase, run.tasks[A].output) == (Phase.SUCCEEDED, driver.output)


def test_a_paused_task_does_nothing_and_then_continues(kind: Any, driver: Driver) -> None:
    run = run_of(kind)
    run.want("Paused")
    assert run.phase is Phase.PAUSED
    before = run.tasks[A]
    run.settle(now=run.moment(HOUR))
    assert (run.phase, run.tasks[A]) == (Phase.PAUSED, before), "no timer runs"
    run.want("Running", now=run.moment(HOUR))
    assert run.phase is Phase.RUNNING
    driver.begin(run, A)
    driver.succeed(run, A)
    assert run.phase is Phase.SUCCEEDED


@kinds_that_take("timeout")
def test_a_pause_stops_the_clock_of_a_timeout(kind: Any, driver: Driver) -> None:
    run = run_of(kind, timeout="10s")
    driver.begin(run, A)
    run.settle(now=run.moment(4))
    run.want("Paused")
    run.gone(*(key for key in run.open if run.view.attempts[key].stopping is not None))
    run.settle(now=run.moment(HOUR))
    run.want("Running")
    driver.begin(run, A)
    run.settle(now=run.moment(5.9))
    assert run.phase is Phase.RUNNING
    run.settle(now=run.moment(4.2))
    assert run.tasks[A].phase is Phase.FAILED


def test_a_cancel_ends_a_task(kind: Any, driver: Driver) -> None:
    run = run_of(kind)
    driver.begin(run, A)
    run.want("Cancelled")
    assert (run.phase, run.tasks[A].phase) == (Phase.CANCELLED, Phase.CANCELLED)
    assert run.types()[-2:] == ["task.cancelled", "workflow.cancelled"]


def test_a_cancel_ends_a_paused_task(kind: Any) -> None:
    run = run_of(kind)
    run.want("Paused")
    run.want("Cancelled")
    assert (run.phase, run.tasks[A].phase) == (Phase.CANCELLED, Phase.CANCELLED)


@kinds_that_take("timeout")
def test_a_step_times_out(kind: Any, driver: Driver) -> None:
    run = run_of(kind, timeout="10s")
    driver.begin(run, A)
    run.settle(now=run.moment(9.9))
    assert run.phase is Phase.RUNNING
    run.settle(now=run.moment(0.2))
    assert (run.tasks[A].phase, run.tasks[A].reason) == (Phase.FAILED, Reason.TIMEOUT)
    assert run.phase is Phase.FAILED


@kinds_that_take("timeout")
def test_the_timeout_of_a_step_stops_the_rest_in_the_same_decision(kind: Any, driver: Driver) -> None:
    """Nothing wakes the run for a second decision: the other task would run until the next relist."""
    step = {"name": "a", kind.field: driver.block, "timeout": "10s"}
    run = Run(view_of_plan(step, {"name": "b"}, failurePolicy="CancelRunning"))
    run.settle()
    driver.begin(run, A)
    run.started(TaskKey("b"))
    decision = run.decide(now=run.moment(10.1))
    assert (run.tasks[A].phase, run.tasks[A].reason) == (Phase.FAILED, Reason.TIMEOUT)
    assert (run.tasks[TaskKey("b")].phase, run.phase) == (Phase.CANCELLED, Phase.FAILED)
    assert not decision.more


def test_a_run_times_out(kind: Any, driver: Driver) -> None:
    run = run_of(kind, run={"timeout": "10s"})
    driver.begin(run, A)
    run.settle(now=run.moment(10))
    assert (run.phase, run.run.reason) == (Phase.FAILED, Reason.TIMEOUT)
    assert (run.tasks[A].phase, run.tasks[A].reason) == (Phase.CANCELLED, Reason.WORKFLOW_TIMEOUT)


@kinds_that_take("cache")
def test_a_result_is_kept_for_others_and_taken_from_others(kind: Any, driver: Driver) -> None:
    run = run_of(kind, cache={"key": "k"})
    driver.begin(run, A)
    driver.succeed(run, A)
    task = run.tasks[A]
    assert task.cache_key is not None
    assert task.cache_until is not None

    other = Run(view_of_plan({"name": "a", kind.field: driver.block, "cache": {"key": "k"}}))
    other.cache[task.cache_key] = CachedResult(
        output=payload_of(driver.output), workflow="audit", task="audit-a"
    )
    other.settle()
    assert (other.phase, other.tasks[A].reason) == (Phase.SUCCEEDED, Reason.CACHED)
    assert other.tasks[A].output == driver.output
    assert not other.attempts


@kinds_that_take("forEach")
def test_a_step_has_a_task_for_each_item(kind: Any, driver: Driver) -> None:
    run = run_of(kind, forEach=[1, 2, 3])
    keys = [TaskKey("a", index) for index in range(3)]
    for key in keys:
        driver.begin(run, key)
    for key in keys:
        if not run.tasks[key].phase.terminal:
            driver.succeed(run, key)
    assert run.phase is Phase.SUCCEEDED
    assert [run.tasks[key].output for key in keys] == [driver.output] * 3


def test_an_expression_of_a_later_step_sees_the_output(kind: Any, driver: Driver) -> None:
    last = {"name": "last", "when": "${steps.a.phase == 'Succeeded'}", "input": "${steps.a.output}"}
    run = Run(view_of_plan({"name": "a", kind.field: driver.block}, last))
    run.settle()
    driver.begin(run, A)
    driver.succeed(run, A)
    assert run.tasks[TaskKey("last")].input == driver.output


@kinds_that_take("repeat")
def test_a_step_is_repeated_until_its_condition_holds(kind: Any, driver: Driver) -> None:
    run = run_of(kind, repeat={"until": "${index == 1}", "maxIterations": 3})
    for index in range(2):
        driver.begin(run, TaskKey("a", index))
        driver.succeed(run, TaskKey("a", index))
    assert (run.phase, len(run.tasks)) == (Phase.SUCCEEDED, 2)


@kinds_that_take("forEach")
def test_only_what_counts_is_limited_by_the_runs_parallelism(kind: Any) -> None:
    run = run_of(kind, run={"parallelism": 1}, forEach=[1, 2])
    assert len(run.tasks) == (1 if kind.counts.parallelism else 2)


def test_a_skipped_step_skips_the_steps_that_depend_on_it(kind: Any, driver: Driver) -> None:
    block = {kind.field: driver.block}
    run = Run(
        view_of_plan({"name": "a", **block, "when": "${false}"}, {"name": "b", **block, "dependsOn": ["a"]})
    )
    run.settle()
    assert reasons(run) == {"a": "ConditionFalse", "b": "DependencyNotMet"}


def test_only_attempts_that_take_a_slot_wait_for_one(kind: Any) -> None:
    run = Run(view_of_plan({"name": "a", kind.field: DRIVERS[kind.field].block}))
    run.limit = 0
    run.settle()
    assert (run.tasks[A].reason is Reason.LIMIT) == kind.counts.slot


def test_a_decision_is_the_same_after_a_restart(kind: Any, driver: Driver) -> None:
    run = run_of(kind)
    driver.begin(run, A)
    for seconds in (0, 30, HOUR):
        observed = run.standing(Observed())
        later = run.moment(seconds)
        assert decide(run.reloaded(), observed, later) == decide(run.view, observed, later)


def test_a_status_shows_a_step_that_runs_and_why_it_waits(kind: Any, driver: Driver) -> None:
    run = run_of(kind)
    driver.begin(run, A)
    live = LiveRun(key=RunKey("Workflow", "team", "audit"), view=run.view, generation=1)
    status = workflow_status(live, {}, {}, run.now)
    (step,) = status["steps"]
    assert (step["name"], step["phase"], step["tasks"]) == ("a", "Running", {"total": 1, "running": 1})
    # A step whose tasks count against parallelism does something; any other waits, and so does its run.
    assert ("reason" in step) == (not kind.counts.parallelism)
    assert step.get("reason", "Waiting") == "Waiting"
    driver.succeed(run, A)
    assert workflow_status(live, {}, status, run.now)["phase"] == "Succeeded"


# --- signals


def test_a_status_shows_the_step_that_waits_for_a_signal() -> None:
    run = run_of(WITH_ECHO[-1])
    live = LiveRun(key=RunKey("Workflow", "team", "audit"), view=run.view, generation=1)
    assert workflow_status(live, {}, {}, run.now)["message"] == "a: for a signal"


def test_a_signal_is_consumed_by_the_decision_that_it_ends_a_task_in() -> None:
    run = run_of(WITH_ECHO[-1])
    signal = run.send(A, "go", "yes")
    decision = run.decide()
    assert decision.commit is not None
    assert decision.commit.consumed == (signal.id,)
    assert (run.tasks[A].output, run.phase, run.inbox[A]) == ("yes", Phase.SUCCEEDED, ())


def test_a_signal_that_no_kind_uses_stays_in_the_inbox(kind: Any, driver: Driver) -> None:
    run = run_of(kind)
    signal = run.send(A, "of another name")
    assert run.decide().commit is None
    assert run.inbox[A] == (signal,)
    driver.begin(run, A)
    driver.succeed(run, A)
    assert (run.phase, run.inbox[A]) == (Phase.SUCCEEDED, (signal,))


def test_a_signal_that_is_sent_before_its_task_is_created_ends_the_task_at_once() -> None:
    run = Run(
        view_of_plan({"name": "first"}, {"name": "a", "echo": {"signal": "go"}, "dependsOn": ["first"]})
    )
    run.settle()
    run.signalled(A, "go", 7)
    assert A not in run.tasks
    _report(run, TaskKey("first"))
    assert (run.phase, run.tasks[A].output) == (Phase.SUCCEEDED, 7)
    assert [type for type in run.types() if type.startswith("task.")][-1:] == ["task.succeeded"]


def test_a_signal_that_is_sent_during_a_pause_ends_the_task() -> None:
    run = run_of(WITH_ECHO[-1])
    run.want("Paused")
    run.signalled(A, "go", 7)
    assert (run.phase, run.tasks[A].output) == (Phase.SUCCEEDED, 7)


def test_a_signal_for_a_step_that_does_not_exist_changes_nothing(kind: Any) -> None:
    run = run_of(kind)
    run.send(TaskKey("nowhere"), "go")
    assert run.decide().commit is None


def test_waiting_for_a_signal_costs_a_decision_nothing() -> None:
    """Thousands of tasks may wait for signals: none of them is among those that a decision would start."""
    run = run_of(WITH_ECHO[-1], forEach=list(range(60)))
    assert len(run.tasks) == 60
    assert not run.view.ready
    assert run.requeue_at is None
