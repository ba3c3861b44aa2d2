"""The rules that every decision keeps, whatever was observed.

Written against records and events alone, so that they hold the decision to the contract and not to its own
ways of counting.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.unit.domain.eventrules import DISRUPTIONS, check_events

from perdure.domain.engine.decide import Decision
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.steps import MAX_NEW_TASKS
from perdure.domain.engine.timer_step import TimerStep
from perdure.domain.phases import RUN, STEP, TASK, Phase, Reason, Transitions, successors
from perdure.domain.records import (
    AGENT_TASK,
    AttemptRecord,
    Commit,
    StepRecord,
    TaskKey,
    TaskRecord,
)

if TYPE_CHECKING:
    from tests.unit.domain.runs import Run

#: Reasons for which a step fails without a task that did.
FAILED_ITSELF = {Reason.EXPRESSION_ERROR, Reason.TOO_MANY_ITEMS, Reason.MAX_ITERATIONS}

Tasks = dict[TaskKey, TaskRecord]
Steps = dict[str, StepRecord]


def check_decision(before: Run, observed: Observed, decision: Decision) -> None:
    """Fail if a decision breaks a rule, whether it commits anything or not. `before` is the run without."""
    run = before.run if decision.commit is None else decision.commit.run
    tasks = before.tasks | {task.key: task for task in (decision.commit.tasks if decision.commit else ())}
    attempts = _attempts_after(before, decision)
    if run.phase.terminal:
        assert decision.requeue_at is None
        assert not decision.more
        assert not decision.questions
        assert not decision.wants
        return
    assert observed.slots is not None or not decision.wants
    if decision.wants:
        opened = sum(1 for place in attempts if place not in before.attempts)
        assert observed.slots is not None
        assert opened >= observed.slots, "slots are left"
        assert run.phase is not Phase.PAUSED
    assert not (decision.questions.keys() & tasks.keys()), "what is made is not asked for"
    for key in decision.questions:
        assert before.view.plan.steps[key.step].cache is not None
    live = [task for task in tasks.values() if not task.phase.terminal]
    if run.phase is Phase.PAUSED:
        return
    delays = [task.retry_at for task in live if task.retry_at is not None]
    if delays:
        assert decision.requeue_at is not None
        assert decision.requeue_at <= min(delays)
    if run.deadline_at is not None and run.stop is None and _of_main(before, live):
        assert decision.requeue_at is not None
        assert decision.requeue_at <= run.deadline_at
    goes_on = (
        bool(delays)
        or _waits_for_signal(live)
        or any(attempt.closed_at is None for attempt in attempts.values())
    )
    assert goes_on or decision.more or decision.questions or decision.wants, "a run with nothing to do ends"


def check_commit(before: Run, observed: Observed, decision: Decision) -> None:
    """Fail if what a decision is about to commit breaks a rule. `before` is the run without it."""
    commit = decision.commit
    assert commit is not None
    tasks = before.tasks | {task.key: task for task in commit.tasks}
    steps = before.steps | {step.name: step for step in commit.steps}
    _check_phases(before, commit)
    _check_attempts(before, commit, tasks)
    _check_starts(before, observed, commit, tasks, steps)
    _check_limits(before, observed, commit, tasks)
    check_events(before, commit)
    for name, step in steps.items():
        made = [task for key, task in sorted(tasks.items()) if key.step == name]
        _check_step(before.view.plan.steps[name], step, made)
    _check_run(before, observed, commit, tasks, steps)


def _waits_for_signal(live: list[TaskRecord]) -> bool:
    return any((task.phase, task.reason) == (Phase.RUNNING, Reason.WAITING) for task in live)


def _attempts_after(before: Run, decision: Decision) -> dict[tuple[TaskKey, int], AttemptRecord]:
    written = decision.commit.attempts if decision.commit else ()
    return before.attempts | {(attempt.key, attempt.number): attempt for attempt in written}


def _of_main(before: Run, tasks: list[TaskRecord]) -> bool:
    return any(not before.view.plan.steps[task.key.step].is_finally for task in tasks)


def _moves(table: Transitions, before: Phase, after: Phase) -> bool:
    return before is after or after in successors(table, before)


def _check_phases(before: Run, commit: Commit) -> None:
    """Every change of phase is in its table, and a record that has ended is never written again."""
    assert commit.run.version == before.run.version
    assert not before.run.phase.terminal
    assert _moves(RUN, before.run.phase, commit.run.phase)
    for table, record, old in [
        *((STEP, step, before.steps.get(step.name)) for step in commit.steps),
        *((TASK, task, before.tasks.get(task.key)) for task in commit.tasks),
    ]:
        assert _moves(table, Phase.PENDING if old is None else old.phase, record.phase)
        assert old is None or not old.phase.terminal, f"{old} has ended"
        assert (record.finished_at is not None) == record.phase.terminal
        assert record.phase is not Phase.FAILED or record.reason is not None


# --- attempts


def _check_attempts(before: Run, commit: Commit, tasks: Tasks) -> None:
    """Numbered 1, 2, 3; one open at most; closed for ever; retries and disruptions counted apart."""
    for attempt in commit.attempts:
        old = before.attempts.get((attempt.key, attempt.number))
        assert old is None or old.closed_at is None, f"{old} is closed"
        assert (attempt.closed_at is None) == (attempt.outcome is None)
    attempts = before.attempts | {(attempt.key, attempt.number): attempt for attempt in commit.attempts}
    by_task: dict[TaskKey, list[AttemptRecord]] = {}
    for (key, _), attempt in sorted(attempts.items()):
        by_task.setdefault(key, []).append(attempt)
    assert by_task.keys() <= tasks.keys()
    for key, task in tasks.items():
        _check_task(before.view.plan.steps[key.step], commit, task, by_task.get(key, []))


def _check_task(step: PlannedStep, commit: Commit, task: TaskRecord, tries: list[AttemptRecord]) -> None:
    paused = commit.run.phase is Phase.PAUSED
    assert [attempt.number for attempt in tries] == list(range(1, task.attempt + 1))
    assert len({attempt.pod_name for attempt in tries}) == len(tries)
    assert not any(attempt.closed_at is None for attempt in tries[:-1])
    is_open = bool(tries) and tries[-1].closed_at is None
    if task.phase.terminal:
        assert not is_open
        assert task.retry_at is None
    elif is_open:
        assert task.retry_at is None
        assert task.phase in (Phase.PENDING, Phase.RUNNING)
        assert not paused or step.kind.field == "workflow" or tries[-1].stopping is Reason.PAUSED
    elif paused:
        assert (task.phase, task.reason) == (Phase.PAUSED, Reason.PAUSED)
    elif isinstance(step.kind, TimerStep):
        # Until a time, or without one for a signal.
        assert (task.phase, task.reason) == (Phase.RUNNING, Reason.WAITING)
    elif task.retry_at is None:
        assert (task.phase, task.reason) == (Phase.PENDING, Reason.LIMIT)
    else:
        assert (task.phase, task.reason) == (Phase.PENDING, Reason.BACKOFF)
    if isinstance(step.kind, TimerStep):
        assert not tries
        return
    _check_budgets(step, task, tries)


def _check_budgets(step: PlannedStep, task: TaskRecord, tries: list[AttemptRecord]) -> None:
    failed = [attempt for attempt in tries if attempt.outcome is Phase.FAILED]
    disrupted = [attempt for attempt in failed if attempt.reason in DISRUPTIONS]
    assert task.disruptions == len(disrupted) <= step.disruption_limit + 1
    spent = len(failed) - len(disrupted)
    given_up = task.phase is Phase.FAILED and bool(failed) and failed[-1] not in disrupted
    assert task.retries == spent - given_up
    assert task.retries <= step.retry.limit
    if failed:
        assert task.last_failure is not None
        assert task.last_failure["attempt"] == failed[-1].number
    if task.phase is Phase.SUCCEEDED:
        assert (task.cache_key is not None) == (step.cache is not None)
        if task.reason is Reason.CACHED:
            assert not tries
            assert task.cache_until is None
        else:
            assert tries[-1].outcome is Phase.SUCCEEDED
            assert (task.cache_until is not None) == (step.cache is not None)
    for attempt in tries:
        assert attempt.stopping in (None, Reason.PAUSED)
        assert attempt.outcome is not Phase.CANCELLED or attempt.reason is not None


# --- what starts


def _check_starts(before: Run, observed: Observed, commit: Commit, tasks: Tasks, steps: Steps) -> None:
    """Nothing starts before its dependencies have ended, in a pause, or when the run is about to end."""
    plan = before.view.plan
    ended = {name for name, step in steps.items() if step.phase.terminal}
    for name in [step.name for step in commit.steps if step.name not in before.steps]:
        if commit.run.stop is None and commit.run.reason is not Reason.DELETED:
            assert ended >= set(plan.steps[name].depends_on), (
                "a step is decided once its dependencies have ended"
            )
    new = [key for key in tasks if key not in before.tasks]
    opened = [attempt for attempt in commit.attempts if (attempt.key, attempt.number) not in before.attempts]
    assert len(new) <= MAX_NEW_TASKS
    for key in {*new, *(attempt.key for attempt in opened)}:
        step = plan.steps[key.step]
        assert ended >= set(step.depends_on)
        if step.is_finally:
            assert ended >= set(plan.order), "finally steps come last"
        elif step.when is None:
            for name in step.depends_on:
                tolerated = steps[name].phase is Phase.FAILED and plan.steps[name].continue_on_failure
                assert steps[name].phase is Phase.SUCCEEDED or tolerated
    main_new = [key for key in new if not plan.steps[key.step].is_finally]
    main_opened = [attempt for attempt in opened if not plan.steps[attempt.key.step].is_finally]
    if before.run.phase is Phase.PAUSED and observed.desired == "Paused":
        assert not new
    if commit.run.phase is Phase.PAUSED or observed.deleted:
        assert not new
        assert not opened
    if commit.run.stop is not None:
        assert not main_new
        assert not main_opened
    if _is_failing(before, before.steps, before.tasks) and plan.settings.failure_policy != "RunAll":
        assert not main_new, "nothing starts after a failure"
        assert all(attempt.number > 1 for attempt in main_opened)
        assert plan.settings.failure_policy == "FinishRunning" or not main_opened
    for attempt in opened:
        step, record = plan.steps[attempt.key.step], before.steps.get(attempt.key.step)
        if attempt.number == 1 and record is not None and step.max_failures is not None:
            assert _failed(before.tasks, step.name) <= step.tolerated_failures(record.total)


def _failed(tasks: Tasks, step: str) -> int:
    return sum(1 for key, task in tasks.items() if key.step == step and task.phase is Phase.FAILED)


def _is_failing(before: Run, steps: Steps, tasks: Tasks) -> bool:
    """True if a main step has failed, or enough of its tasks, and the run does not bear that."""
    for name in before.view.plan.order:
        step, record = before.view.plan.steps[name], steps.get(name)
        if step.continue_on_failure or record is None:
            continue
        if record.phase is Phase.FAILED or _failed(tasks, name) > step.tolerated_failures(record.total):
            return True
    return False


def _check_limits(before: Run, observed: Observed, commit: Commit, tasks: Tasks) -> None:
    """No more at once than the run, its steps and the slots allow."""
    plan = before.view.plan
    live = Counter(key.step for key, task in tasks.items() if not task.phase.terminal)
    working = sum(number for name, number in live.items() if plan.steps[name].kind.counts.parallelism)
    assert plan.settings.parallelism is None or working <= plan.settings.parallelism
    for name, number in live.items():
        limit = plan.steps[name].parallelism
        assert limit is None or number <= limit
    opened = [
        attempt
        for attempt in commit.attempts
        if (attempt.key, attempt.number) not in before.attempts
        and plan.steps[attempt.key.step].kind.counts.slot
    ]
    assert observed.slots is None or len(opened) <= observed.slots


# --- steps and the run


def _check_step(planned: PlannedStep, step: StepRecord, made: list[TaskRecord]) -> None:
    """A step's phase follows from its tasks."""
    phases = Counter(task.phase for task in made)
    indexed = planned.is_for_each or planned.repeat is not None
    assert [task.key.index for task in made] == (list(range(len(made))) if indexed else [-1] * len(made))
    assert step.for_each == planned.is_for_each
    if planned.repeat is not None:
        assert len(made) == step.total <= planned.repeat.max_iterations
    else:
        assert len(made) <= step.total
    begun = [
        task
        for task in made
        if task.attempt
        or isinstance(planned.kind, TimerStep)
        or task.phase in (Phase.SUCCEEDED, Phase.FAILED)
    ]
    is_empty = step.phase is Phase.SUCCEEDED and not step.total
    assert (step.started_at is not None) == (bool(begun) or is_empty)
    if step.phase.terminal:
        assert all(task.phase.terminal for task in made)
    if step.phase is Phase.PENDING:
        assert not begun
        assert step.reason in (None, Reason.PARALLELISM, Reason.LIMIT)
    elif step.phase is Phase.RUNNING:
        assert begun
    elif step.phase is Phase.SUCCEEDED:
        if planned.repeat is not None:
            assert phases[Phase.SUCCEEDED] == len(made)
        else:
            assert phases[Phase.SUCCEEDED] + phases[Phase.FAILED] == step.total
            assert phases[Phase.FAILED] <= planned.tolerated_failures(step.total)
    elif step.phase is Phase.FAILED:
        assert phases[Phase.FAILED] > planned.tolerated_failures(step.total) or step.reason in FAILED_ITSELF
    elif step.phase is Phase.SKIPPED:
        assert not begun
        assert set(phases) <= {Phase.SKIPPED}


def _check_run(before: Run, observed: Observed, commit: Commit, tasks: Tasks, steps: Steps) -> None:
    """The run's phase follows from its steps."""
    run, plan = commit.run, before.view.plan
    assert (run.paused_at is not None) == (run.phase is Phase.PAUSED)
    assert (run.stop is None) or before.run.stop in (None, run.stop), "a stop stays"
    if not run.phase.terminal:
        return
    assert set(steps) == set(plan.steps)
    assert run.finished_at == before.now
    assert run.expires_at == before.now + plan.retention
    assert all(record.phase.terminal for record in (*steps.values(), *tasks.values()))
    failed = {
        name
        for name, step in steps.items()
        if step.phase is Phase.FAILED and not plan.steps[name].continue_on_failure
    }
    alone = next(iter(tasks.values()), None) if run.kind == AGENT_TASK else None
    if observed.deleted:
        assert (run.phase, run.reason) == (Phase.CANCELLED, Reason.DELETED)
    elif alone is not None and alone.phase is not Phase.CANCELLED:
        assert run.phase is alone.phase, "what is said of an AgentTask is said of its run"
    elif before.desired == "Cancelled" or Reason.CANCELLED in (before.run.stop, before.run.reason):
        assert (run.phase, run.reason) == (Phase.CANCELLED, Reason.CANCELLED)
    elif run.stop is not None:
        assert (run.phase, run.reason) == (Phase.FAILED, Reason.TIMEOUT)
    elif failed:
        assert run.phase is Phase.FAILED
        assert run.reason in {steps[name].reason for name in failed}
    elif run.phase is Phase.FAILED:
        assert run.reason is Reason.EXPRESSION_ERROR
        assert run.message.startswith("spec.outputs")
    else:
        assert run.phase is Phase.SUCCEEDED
        assert {step.phase for step in steps.values()} <= {Phase.SUCCEEDED, Phase.SKIPPED, Phase.FAILED}
    assert run.outputs is None or run.phase is Phase.SUCCEEDED
