"""How steps are filled with tasks: one, one for each item, or one iteration after the other."""

from __future__ import annotations

from dataclasses import replace

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.concurrency import is_cut, room, waits_for_slot
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.scope import evaluate_condition
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.engine.tasks import create_task
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.phases import Phase, Reason, Trigger
from perdure.domain.records import NO_INDEX, StepRecord, TaskKey


def fill_step(changes: ChangeSet, step: PlannedStep, budget: int) -> int:
    """Make the step's next tasks as far as limits and the budget go. Returns what is left of it."""
    if step.repeat is not None:
        return _fill_loop(changes, step, budget)
    record = _record(changes, step)
    made = changes.counts(step.name).total() + changes.asked(step.name)
    while made < record.total and budget and not is_cut(changes, step, record):
        if _is_full(changes, step):
            break
        if waits_for_slot(changes, step):
            # One task shows that the step waits; the others need not be made yet. Cached ones may need none.
            if step.cache is None:
                changes.unmade[step.name] = record.total - made
            break
        if not _make_task(changes, step, made if step.is_for_each else NO_INDEX):
            break
        made += 1
        budget -= 1
    return budget


def _fill_loop(changes: ChangeSet, step: PlannedStep, budget: int) -> int:
    """Make the next iteration of a loop, if the last one succeeded and did not end it.

    More than one only if they end as they are made: those whose results are cached.
    """
    while budget and not changes.asked(step.name):
        record = _record(changes, step)
        last = changes.task(TaskKey(step.name, record.total - 1)) if record.total else None
        if is_cut(changes, step, record) or (last is not None and not _goes_on(changes, step, record)):
            break
        if _is_full(changes, step) or not _make_task(changes, step, record.total):
            break
        budget -= 1
    return budget


def _record(changes: ChangeSet, step: PlannedStep) -> StepRecord:
    record = changes.step(step.name)
    assert record is not None
    return record


def _is_full(changes: ChangeSet, step: PlannedStep) -> bool:
    """True if parallelism leaves no room for one more task; a step that has none says so."""
    number, limit = room(changes, step)
    if number:
        return False
    if not changes.counts(step.name).total() and not changes.asked(step.name):
        _hold(changes, step, Reason.PARALLELISM, f"{limit} is used up")
    return True


def _hold(changes: ChangeSet, step: PlannedStep, reason: Reason, message: str) -> None:
    """Say why a step of which nothing has started does not start."""
    record = _record(changes, step)
    held = replace(record, reason=reason, message=message)
    if record.phase is Phase.PENDING and held != record:
        changes.put_step(held)


def _make_task(changes: ChangeSet, step: PlannedStep, index: int) -> bool:
    """Make a task, or ask first for what it needs. False if that has to wait for other answers."""
    key = TaskKey(step.name, index)
    if not create_task(changes, step, index):
        return key in changes.questions or key in changes.postponed
    if step.repeat is not None:
        record = _record(changes, step)
        changes.put_step(replace(record, total=record.total + 1))
    task = changes.task(key)
    assert task is not None
    if task.reason is Reason.LIMIT:
        _hold(changes, step, Reason.LIMIT, task.message)
    note_start(changes, step)
    return True


def note_start(changes: ChangeSet, step: PlannedStep) -> None:
    """Take note that the first of a step's tasks has begun: one that waits for a slot has not."""
    record = _record(changes, step)
    if record.phase is not Phase.PENDING or not changes.counts(step.name).total():
        return
    first = changes.task(TaskKey(step.name, 0 if step.is_indexed else NO_INDEX))
    assert first is not None
    if first.attempt or first.phase in (Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED):
        start_step(changes, record)


def start_step(changes: ChangeSet, record: StepRecord) -> StepRecord:
    record = replace(record, phase=Phase.RUNNING, reason=None, message="", started_at=changes.now)
    changes.put_step(record, Trigger.START)
    return record


def _goes_on(changes: ChangeSet, step: PlannedStep, record: StepRecord) -> bool:
    """True if the last iteration of a loop succeeded, and is not the last of all."""
    last = changes.task(TaskKey(step.name, record.total - 1))
    assert last is not None
    return last.phase is Phase.SUCCEEDED and loop_end(changes, step, record) is None


def loop_end(
    changes: ChangeSet, step: PlannedStep, record: StepRecord
) -> tuple[Phase, Reason | None, str] | None:
    """How a loop ends after an iteration that succeeded; None if it goes on. Raises EvaluationPending."""
    assert step.repeat is not None
    try:
        names = TaskScope(changes, step, record.total, changes.evaluation).names
        if evaluate_condition(step.repeat.until, names.plus(index=record.total - 1), "repeat.until"):
            return Phase.SUCCEEDED, None, ""
    except ExpressionError as error:
        return Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error))
    if record.total < step.repeat.max_iterations:
        return None
    text = f"`until` was still false after iteration {record.total}, the last that maxIterations allows"
    return Phase.FAILED, Reason.MAX_ITERATIONS, text
