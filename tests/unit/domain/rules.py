"""The rules that every commit of a decision keeps, whatever was observed.

Written against records and events alone, so that they hold the decision to the contract and not to its own
ways of counting.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from perdure.domain.decide import Decision
from perdure.domain.phases import TRANSITIONS, Phase, Reason
from perdure.domain.records import WORKFLOW, AttemptRecord, Commit, EventDraft, TaskKey, TaskRecord
from perdure.domain.retry import DISRUPTION_LIMIT
from perdure.domain.steps import MAX_NEW_TASKS

if TYPE_CHECKING:
    from tests.unit.domain.runs import Run

DISRUPTIONS = {Reason.DISRUPTED, Reason.INTERRUPTED, Reason.SUPERSEDED}
ENDS = {
    Phase.SUCCEEDED: "succeeded",
    Phase.FAILED: "failed",
    Phase.CANCELLED: "cancelled",
    Phase.SKIPPED: "skipped",
}


def check_commit(before: Run, decision: Decision) -> None:
    """Fail if what a decision is about to commit breaks a rule. `before` is the run without it."""
    commit = decision.commit
    assert commit is not None
    _check_phases(before, commit)
    _check_attempts(before, commit)
    tasks = before.tasks | {task.key: task for task in commit.tasks}
    _check_starts(before, commit, tasks)
    _check_events(before, commit)
    _check_steps(before, commit, tasks)
    _check_run(before, decision, tasks)


def _moves(before: Phase, after: Phase) -> bool:
    return before is after or after in TRANSITIONS[before]


def _check_phases(before: Run, commit: Commit) -> None:
    """Every move is in the table, and what has ended is never written again."""
    assert commit.run.version == before.run.version
    assert not before.run.phase.terminal
    assert _moves(before.run.phase, commit.run.phase)
    for record, old in [
        *((step, before.steps.get(step.name)) for step in commit.steps),
        *((task, before.tasks.get(task.key)) for task in commit.tasks),
    ]:
        assert _moves(Phase.PENDING if old is None else old.phase, record.phase)
        assert old is None or not old.phase.terminal, f"{old} has ended"
        assert (record.finished_at is not None) == record.phase.terminal
        assert record.phase is not Phase.FAILED or record.reason is not None


def _check_attempts(before: Run, commit: Commit) -> None:
    """Numbered 1, 2, 3; one open at most; closed for ever; retries and disruptions counted apart."""
    for attempt in commit.attempts:
        old = before.attempts.get((attempt.key, attempt.number))
        assert old is None or old.closed_at is None, f"{old} is closed"
        assert (attempt.closed_at is None) == (attempt.outcome is None)
    attempts = before.attempts | {(attempt.key, attempt.number): attempt for attempt in commit.attempts}
    by_task: dict[TaskKey, list[AttemptRecord]] = {}
    for (key, _), attempt in sorted(attempts.items()):
        by_task.setdefault(key, []).append(attempt)
    tasks = before.tasks | {task.key: task for task in commit.tasks}
    assert by_task.keys() <= tasks.keys()
    for key, task in tasks.items():
        tries = by_task.get(key, [])
        assert [attempt.number for attempt in tries] == list(range(1, task.attempt + 1))
        assert len({attempt.pod_name for attempt in tries}) == len(tries)
        is_open = [attempt.closed_at is None for attempt in tries]
        waits = task.retry_at is not None
        assert not any(is_open[:-1])
        assert (bool(is_open) and is_open[-1]) == (not task.phase.terminal and not waits)
        assert not (waits and task.phase is not Phase.PENDING)
        failed = [attempt for attempt in tries if attempt.outcome is Phase.FAILED]
        disrupted = [attempt for attempt in failed if attempt.reason in DISRUPTIONS]
        assert task.disruptions == len(disrupted) <= DISRUPTION_LIMIT + 1
        spent = len(failed) - len(disrupted)
        given_up = task.phase is Phase.FAILED and bool(failed) and failed[-1] not in disrupted
        assert task.retries == spent - given_up
        assert task.retries <= before.view.plan.steps[key.step].retry_limit
        if task.phase is Phase.SUCCEEDED:
            assert tries[-1].outcome is Phase.SUCCEEDED


def _check_starts(before: Run, commit: Commit, tasks: dict[TaskKey, TaskRecord]) -> None:
    """Nothing starts before its dependencies have succeeded, after a failure, or beyond parallelism."""
    plan = before.view.plan
    steps = before.steps | {step.name: step for step in commit.steps}
    new = [key for key in tasks if key not in before.tasks]
    assert len(new) <= MAX_NEW_TASKS
    for key in new:
        for dependency in plan.steps[key.step].depends_on:
            assert steps[dependency].phase is Phase.SUCCEEDED
    for step in commit.steps:
        if step.name not in before.steps and commit.run.phase is not Phase.CANCELLED:
            assert all(steps[name].phase.terminal for name in plan.steps[step.name].depends_on)
    if any(record.phase is Phase.FAILED for record in (*before.steps.values(), *before.tasks.values())):
        assert not new, "nothing starts after a failure"
    live = sum(not task.phase.terminal for task in tasks.values())
    assert plan.parallelism is None or live <= plan.parallelism


def _check_events(before: Run, commit: Commit) -> None:
    """Events say what the records say: once each, none beyond."""
    expected: Counter[tuple[str, str | None, int | None]] = Counter()
    names = {task.key: task.name for task in (*before.tasks.values(), *commit.tasks)}
    for task in commit.tasks:
        if task.phase.terminal:
            expected[f"task.{ENDS[task.phase]}", task.name, task.attempt or None] += 1
    retried = {task.key: task.retries for task in before.tasks.values()}
    final = {task.key: task for task in commit.tasks}
    for attempt in commit.attempts:
        old = before.attempts.get((attempt.key, attempt.number))
        name = names[attempt.key]
        if old is None:
            expected["task.scheduled", name, attempt.number] += 1
        if attempt.started_at is not None and (old is None or old.started_at is None):
            expected["task.started", name, attempt.number] += 1
        if attempt.closed_at is not None and attempt.outcome is Phase.FAILED:
            if attempt.reason in DISRUPTIONS:
                expected["task.disrupted", name, attempt.number] += 1
            elif final[attempt.key].retries > retried.get(attempt.key, 0):
                expected["task.retrying", name, attempt.number] += 1
    for step in commit.steps:
        if step.phase is Phase.SKIPPED:
            expected["task.skipped", None, None] += 1
    is_workflow = before.run.kind == WORKFLOW
    if is_workflow:
        expected.update(("workflow." + word, None, None) for word in _run_events(before, commit))
    found = Counter((event.type, event.task, event.attempt) for event in commit.events)
    assert found == expected
    assert all(event.time == before.now for event in commit.events)
    _check_order(before, commit.events, is_workflow=is_workflow, ended=commit.run.phase.terminal)


def _run_events(before: Run, commit: Commit) -> list[str]:
    words = []
    if before.run.version == 0:
        words.append("created")
    if before.run.started_at is None and commit.run.started_at is not None:
        words.append("started")
    if commit.run.phase.terminal:
        words.append(ENDS[commit.run.phase])
    return words


def _check_order(before: Run, events: tuple[EventDraft, ...], *, is_workflow: bool, ended: bool) -> None:
    types = [event.type for event in events]
    if is_workflow:
        assert (types[0] == "workflow.created") == (before.run.version == 0)
    if is_workflow and ended:
        assert types[-1].startswith("workflow.")
    for position, event in enumerate(events):
        # An attempt is scheduled, then starts, and what ends it comes last.
        own = [
            other.type
            for other in events[:position]
            if (other.task, other.attempt) == (event.task, event.attempt)
        ]
        if event.type == "task.started":
            assert not set(own) - {"task.scheduled"}
        if event.type in ("task.retrying", "task.disrupted", "task.succeeded"):
            assert not set(own) - {"task.scheduled", "task.started"}


def _check_steps(before: Run, commit: Commit, tasks: dict[TaskKey, TaskRecord]) -> None:
    """A step's phase follows from its tasks."""
    of_step: dict[str, list[TaskRecord]] = {}
    for key, task in sorted(tasks.items()):
        of_step.setdefault(key.step, []).append(task)
    steps = before.steps | {step.name: step for step in commit.steps}
    for name, step in steps.items():
        made = of_step.get(name, [])
        phases = Counter(task.phase for task in made)
        assert len(made) <= step.total
        assert [task.key.index for task in made] == (
            list(range(len(made))) if step.for_each else [-1] * len(made)
        )
        assert (step.started_at is not None) == (
            step.phase is Phase.RUNNING or bool(made) or step.phase is Phase.SUCCEEDED
        )
        if step.phase.terminal:
            assert all(task.phase.terminal for task in made)
        if step.phase is Phase.PENDING:
            assert not made and step.reason is Reason.PARALLELISM
        elif step.phase is Phase.RUNNING:
            assert made and (len(made) < step.total or any(not task.phase.terminal for task in made))
        elif step.phase is Phase.SUCCEEDED:
            assert phases[Phase.SUCCEEDED] == step.total
        elif step.phase is Phase.FAILED:
            assert phases[Phase.FAILED] or step.reason in (Reason.EXPRESSION_ERROR, Reason.TOO_MANY_ITEMS)
        elif step.phase is Phase.SKIPPED:
            assert not made


def _check_run(before: Run, decision: Decision, tasks: dict[TaskKey, TaskRecord]) -> None:
    """The run's phase follows from its steps, and a run that goes on has something to go on with."""
    commit = decision.commit
    assert commit is not None
    run, plan = commit.run, before.view.plan
    steps = before.steps | {step.name: step for step in commit.steps}
    phases = {steps[name].phase for name in plan.order if name in steps}
    if run.phase.terminal:
        assert set(plan.order) == set(steps)
        assert run.finished_at == before.now
        assert run.expires_at == before.now + plan.retention
        assert all(record.phase.terminal for record in (*steps.values(), *tasks.values()))
        if run.phase is Phase.SUCCEEDED:
            assert phases <= {Phase.SUCCEEDED}
        elif run.phase is Phase.FAILED:
            assert Phase.FAILED in phases or run.reason is Reason.EXPRESSION_ERROR
        else:
            assert (run.phase, run.reason) == (Phase.CANCELLED, Reason.DELETED)
        assert decision.requeue_at is None and not decision.more
        return
    live = [task for task in tasks.values() if not task.phase.terminal]
    assert live or decision.more, "a run with nothing left to do ends"
    delays = [task.retry_at for task in live if task.retry_at is not None]
    if delays:
        assert decision.requeue_at is not None
        assert decision.requeue_at <= min(delays)
