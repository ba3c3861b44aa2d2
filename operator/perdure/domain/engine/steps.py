"""The life of a step: evaluated, filled with tasks, ended."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from perdure.api.workflow import MAX_ITEMS
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.concurrency import is_cut, starts_nothing
from perdure.domain.engine.fan_out import fill_step, loop_end, note_start, start_step
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.scope import evaluate_condition
from perdure.domain.engine.task_scope import items_of, names_of_step
from perdure.domain.engine.view import task_keys
from perdure.domain.events import EventType
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.evaluation import EvaluationPending
from perdure.domain.phases import END_TRIGGERS, Phase, Reason, Trigger
from perdure.domain.records import StepRecord, TaskKey

#: Tasks made by one decision. A larger fan-out takes several passes: each is short, so that what happens
#: meanwhile is soon seen.
MAX_NEW_TASKS = 50

#: Why tasks and steps are cancelled when a run is stopped for a reason of its own.
STOPPED = {
    Reason.CANCELLED: (Reason.CANCELLED, "the run was cancelled"),
    Reason.TIMEOUT: (Reason.WORKFLOW_TIMEOUT, "the run's timeout was over"),
}
_FAILED_BEFORE = "the run failed before this step could start"


def advance(changes: ChangeSet, names: Iterable[str]) -> bool:
    """Evaluate these steps as far as they are not terminal. True if there is more to start at once.

    A step that depends on a request without an answer stays as it is; the other steps go on.
    """
    budget = MAX_NEW_TASKS
    for name in names:
        step = changes.plan.steps[name]
        with suppress(EvaluationPending):
            record = changes.step(name)
            if record is None and budget:
                record = _evaluate_step(changes, step)
            if record is None or record.phase.terminal:
                continue
            note_start(changes, step)
            if not changes.paused:
                budget = fill_step(changes, step, budget)
            _complete_step(changes, step)
    return budget == 0


def complete(changes: ChangeSet, names: Iterable[str]) -> None:
    """End those of these steps of which nothing runs and nothing more will start."""
    for name in names:
        record = changes.step(name)
        if record is not None and not record.phase.terminal:
            with suppress(EvaluationPending):
                _complete_step(changes, changes.plan.steps[name])


def end_step(
    changes: ChangeSet,
    step: PlannedStep,
    phase: Phase,
    reason: Reason | None,
    message: str,
    record: StepRecord | None = None,
) -> StepRecord:
    record = replace(
        record or StepRecord(name=step.name, phase=phase, for_each=step.is_for_each, total=0),
        phase=phase,
        reason=reason,
        message=message,
        finished_at=changes.now,
    )
    changes.put_step(record, END_TRIGGERS[phase])
    if phase is Phase.SKIPPED and not changes.counts(step.name).total():
        changes.event(EventType.TASK_SKIPPED, step=step.name, reason=reason, message=message)
    return record


# --- evaluating a step


def _evaluate_step(changes: ChangeSet, step: PlannedStep) -> StepRecord | None:
    """Start, skip or fail a step whose dependencies have all ended. None if it has to wait.

    Raises EvaluationPending before anything of the step has changed.
    """
    if changes.run.stop is not None and not step.is_finally:
        return end_step(changes, step, Phase.CANCELLED, *STOPPED[changes.run.stop])
    records = {name: changes.step(name) for name in step.depends_on}
    if changes.paused or any(record is None or not record.phase.terminal for record in records.values()):
        return None
    unmet = next((name for name in records if not _is_met(changes, name)), None)
    stopped = starts_nothing(changes, step)
    if unmet is not None and (stopped or step.when is None) and not step.is_finally:
        text = f"step {unmet!r} did not succeed"
        return end_step(changes, step, Phase.SKIPPED, Reason.DEPENDENCY_NOT_MET, text)
    if stopped:
        return end_step(changes, step, Phase.SKIPPED, Reason.WORKFLOW_FAILED, _FAILED_BEFORE)
    total = 0 if step.repeat is not None else 1
    try:
        if step.when is not None and not _is_wanted(changes, step):
            return end_step(changes, step, Phase.SKIPPED, Reason.CONDITION_FALSE, "its condition was false")
        if step.is_for_each:
            total = len(items_of(changes, step, changes.evaluation))
    except ExpressionError as error:
        return end_step(changes, step, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
    if total > MAX_ITEMS:
        message = f"forEach has {total} items; the limit is {MAX_ITEMS}, use fewer, larger ones"
        return end_step(changes, step, Phase.FAILED, Reason.TOO_MANY_ITEMS, message)
    if changes.run.phase is Phase.PENDING:
        _start_run(changes)
    record = StepRecord(name=step.name, phase=Phase.PENDING, total=total, for_each=step.is_for_each)
    if total == 0 and step.is_for_each:
        return start_step(changes, record)
    changes.put_step(record)
    return record


def _is_wanted(changes: ChangeSet, step: PlannedStep) -> bool:
    """What the step's `when` gives. Raises ExpressionError and EvaluationPending."""
    return evaluate_condition(step.when, names_of_step(changes, step, changes.evaluation), "when")


def _is_met(changes: ChangeSet, name: str) -> bool:
    """True if a step has succeeded, or its failure is tolerated."""
    record = changes.step(name)
    assert record is not None
    tolerated = record.phase is Phase.FAILED and changes.plan.steps[name].continue_on_failure
    return record.phase is Phase.SUCCEEDED or tolerated


def _start_run(changes: ChangeSet) -> None:
    timeout = changes.plan.timeout
    changes.replace_run(
        Trigger.START,
        phase=Phase.RUNNING,
        started_at=changes.now,
        deadline_at=None if timeout is None else changes.now + timeout,
        reason=None,
        message="",
    )
    changes.event(EventType.WORKFLOW_STARTED)


# --- ending it


def _complete_step(changes: ChangeSet, step: PlannedStep) -> None:
    """End a step when nothing of it runs and nothing more of it will start."""
    record = changes.step(step.name)
    assert record is not None
    counts = changes.counts(step.name)
    if any(not phase.terminal and number for phase, number in counts.items()):
        return
    if record.phase is Phase.PENDING:
        _give_up(changes, step, record)
    elif step.repeat is not None:
        _complete_loop(changes, step, record)
    elif step.is_for_each:
        _complete_fan(changes, step, record)
    else:
        task = changes.task(TaskKey(step.name))
        assert task is not None
        end_step(changes, step, task.phase, task.reason, task.message, record)


def _give_up(changes: ChangeSet, step: PlannedStep, record: StepRecord) -> None:
    """End a step of which nothing has begun, if the run has come to its end."""
    if not starts_nothing(changes, step):
        return
    if changes.run.stop is not None:
        end_step(changes, step, Phase.CANCELLED, *STOPPED[changes.run.stop], record)
    else:
        end_step(changes, step, Phase.SKIPPED, Reason.WORKFLOW_FAILED, _FAILED_BEFORE, record)


def _complete_loop(changes: ChangeSet, step: PlannedStep, record: StepRecord) -> None:
    last = changes.task(TaskKey(step.name, record.total - 1))
    assert last is not None
    if last.phase is Phase.SKIPPED:
        _end_short(changes, step, record, _after_iterations(changes, step, record.total - 1))
        return
    if last.phase is not Phase.SUCCEEDED:
        message = f"iteration {last.key.index}: {last.message}" if last.message else ""
        end_step(changes, step, last.phase, last.reason, shorten(message), record)
        return
    end = loop_end(changes, step, record)
    if end is not None:
        end_step(changes, step, *end, record)
    elif is_cut(changes, step, record):
        _end_short(changes, step, record, _after_iterations(changes, step, record.total))


def _after_iterations(changes: ChangeSet, step: PlannedStep, number: int) -> str:
    assert step.repeat is not None
    return f"the run {_verb(changes)} after {number} of at most {step.repeat.max_iterations} iterations"


def _complete_fan(changes: ChangeSet, step: PlannedStep, record: StepRecord) -> None:
    counts = changes.counts(step.name)
    created = counts.total() - counts[Phase.SKIPPED]
    failed = counts[Phase.FAILED]
    if created < record.total and not is_cut(changes, step, record):
        return
    if failed > step.tolerated_failures(record.total):
        reason = Reason.TASKS_FAILED if step.max_failures is None else Reason.MAX_FAILURES
        end_step(changes, step, Phase.FAILED, reason, _failures(changes, step, record), record)
    elif created < record.total or counts[Phase.CANCELLED]:
        ended = created - counts[Phase.CANCELLED]
        _end_short(
            changes, step, record, f"the run {_verb(changes)} when {ended} of {record.total} tasks had run"
        )
    else:
        end_step(changes, step, Phase.SUCCEEDED, None, "", record)


def _end_short(changes: ChangeSet, step: PlannedStep, record: StepRecord, message: str) -> None:
    """End a step that was stopped half way, through no fault of its own."""
    stop = changes.run.stop
    reason = Reason.WORKFLOW_FAILED if stop is None else STOPPED[stop][0]
    end_step(changes, step, Phase.CANCELLED, reason, message, record)


def _verb(changes: ChangeSet) -> str:
    return "failed" if changes.run.stop is None else "was stopped"


def _failures(changes: ChangeSet, step: PlannedStep, record: StepRecord) -> str:
    """How many tasks of a step failed, how many it would bear, and the first of them."""
    counts = changes.counts(step.name)
    first = next(
        task
        for key in task_keys(step, record)
        if (task := changes.task(key)) is not None and task.phase is Phase.FAILED
    )
    rest = record.total - counts.total() + counts[Phase.SKIPPED]
    text = f"{counts[Phase.FAILED]} of {record.total} tasks failed"
    if step.max_failures is not None:
        text += f", at most {step.tolerated_failures(record.total)} may"
    text += f", {rest} were not started" if rest else ""
    return shorten(f"{text}; first: {first.name}: {first.message}")
