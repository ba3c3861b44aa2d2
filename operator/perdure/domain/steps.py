"""How steps go: looked at when their dependencies have ended, filled with tasks, and ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from perdure.api.workflow import MAX_ITEMS
from perdure.domain.cel import ExpressionError
from perdure.domain.draft import Draft
from perdure.domain.filling import fill_step, loop_end, note_start, start_step
from perdure.domain.limits import is_cut, starts_nothing
from perdure.domain.outcome import shorten
from perdure.domain.phases import Phase, Reason
from perdure.domain.plan import PlannedStep
from perdure.domain.records import StepRecord, TaskKey
from perdure.domain.scope import evaluate_condition
from perdure.domain.taskscope import items_of, names_of_step
from perdure.domain.view import task_keys

#: Tasks made by one decision. A larger fan-out takes several passes: each is short, so that what happens
#: meanwhile is soon seen.
MAX_NEW_TASKS = 50

#: Why tasks and steps are cancelled when a run is stopped for a reason of its own.
STOPPED = {
    Reason.CANCELLED: (Reason.CANCELLED, "the run was cancelled"),
    Reason.TIMEOUT: (Reason.WORKFLOW_TIMEOUT, "the run's timeout was over"),
}
_FAILED_BEFORE = "the run failed before this step could start"


def advance(draft: Draft, names: Iterable[str]) -> bool:
    """Look at these steps as far as they are not terminal. True if there is more to start at once."""
    budget = MAX_NEW_TASKS
    for name in names:
        step = draft.plan.steps[name]
        record = draft.step(name)
        if record is None and budget:
            record = _look_at_step(draft, step)
        if record is None or record.phase.terminal:
            continue
        note_start(draft, step)
        if not draft.paused:
            budget = fill_step(draft, step, budget)
        _complete_step(draft, step)
    return budget == 0


def complete(draft: Draft, names: Iterable[str]) -> None:
    """End those of these steps of which nothing runs and nothing more will start."""
    for name in names:
        record = draft.step(name)
        if record is not None and not record.phase.terminal:
            _complete_step(draft, draft.plan.steps[name])


def end_step(
    draft: Draft,
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
        finished_at=draft.now,
    )
    draft.put_step(record)
    if phase is Phase.SKIPPED and not draft.counts(step.name).total():
        draft.event("task.skipped", step=step.name, reason=reason, message=message)
    return record


# --- looking at a step


def _look_at_step(draft: Draft, step: PlannedStep) -> StepRecord | None:
    """Start, skip or fail a step whose dependencies have all ended. None if it has to wait."""
    if draft.run.stop is not None and not step.is_finally:
        return end_step(draft, step, Phase.CANCELLED, *STOPPED[draft.run.stop])
    records = {name: draft.step(name) for name in step.depends_on}
    if draft.paused or any(record is None or not record.phase.terminal for record in records.values()):
        return None
    unmet = next((name for name in records if not _is_met(draft, name)), None)
    stopped = starts_nothing(draft, step)
    if unmet is not None and (stopped or step.when is None) and not step.is_finally:
        text = f"step {unmet!r} did not succeed"
        return end_step(draft, step, Phase.SKIPPED, Reason.DEPENDENCY_NOT_MET, text)
    if stopped:
        return end_step(draft, step, Phase.SKIPPED, Reason.WORKFLOW_FAILED, _FAILED_BEFORE)
    total = 0 if step.repeat is not None else 1
    try:
        if step.when is not None and not evaluate_condition(step.when, names_of_step(draft, step), "when"):
            return end_step(draft, step, Phase.SKIPPED, Reason.CONDITION_FALSE, "its condition was false")
        if step.is_for_each:
            total = len(items_of(draft, step))
    except ExpressionError as error:
        return end_step(draft, step, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
    if total > MAX_ITEMS:
        message = f"forEach has {total} items; the limit is {MAX_ITEMS}, use fewer, larger ones"
        return end_step(draft, step, Phase.FAILED, Reason.TOO_MANY_ITEMS, message)
    if draft.run.phase is Phase.PENDING:
        _start_run(draft)
    record = StepRecord(name=step.name, phase=Phase.PENDING, total=total, for_each=step.is_for_each)
    if total == 0 and step.is_for_each:
        return start_step(draft, record)
    draft.put_step(record)
    return record


def _is_met(draft: Draft, name: str) -> bool:
    """True if a step has succeeded, or its failure is borne."""
    record = draft.step(name)
    assert record is not None
    tolerated = record.phase is Phase.FAILED and draft.plan.steps[name].continue_on_failure
    return record.phase is Phase.SUCCEEDED or tolerated


def _start_run(draft: Draft) -> None:
    timeout = draft.plan.timeout
    draft.replace_run(
        phase=Phase.RUNNING,
        started_at=draft.now,
        deadline_at=None if timeout is None else draft.now + timeout,
        reason=None,
        message="",
    )
    draft.event("workflow.started")


# --- ending it


def _complete_step(draft: Draft, step: PlannedStep) -> None:
    """End a step when nothing of it runs and nothing more of it will start."""
    record = draft.step(step.name)
    assert record is not None
    counts = draft.counts(step.name)
    if any(not phase.terminal and number for phase, number in counts.items()):
        return
    if record.phase is Phase.PENDING:
        _give_up(draft, step, record)
    elif step.repeat is not None:
        _complete_loop(draft, step, record)
    elif step.is_for_each:
        _complete_fan(draft, step, record)
    else:
        task = draft.task(TaskKey(step.name))
        assert task is not None
        end_step(draft, step, task.phase, task.reason, task.message, record)


def _give_up(draft: Draft, step: PlannedStep, record: StepRecord) -> None:
    """End a step of which nothing has begun, if the run has come to its end."""
    if not starts_nothing(draft, step):
        return
    if draft.run.stop is not None:
        end_step(draft, step, Phase.CANCELLED, *STOPPED[draft.run.stop], record)
    else:
        end_step(draft, step, Phase.SKIPPED, Reason.WORKFLOW_FAILED, _FAILED_BEFORE, record)


def _complete_loop(draft: Draft, step: PlannedStep, record: StepRecord) -> None:
    last = draft.task(TaskKey(step.name, record.total - 1))
    assert last is not None
    if last.phase is Phase.SKIPPED:
        _end_short(draft, step, record, _after_iterations(draft, step, record.total - 1))
        return
    if last.phase is not Phase.SUCCEEDED:
        message = f"iteration {last.key.index}: {last.message}" if last.message else ""
        end_step(draft, step, last.phase, last.reason, shorten(message), record)
        return
    end = loop_end(draft, step, record)
    if end is not None:
        end_step(draft, step, *end, record)
    elif is_cut(draft, step, record):
        _end_short(draft, step, record, _after_iterations(draft, step, record.total))


def _after_iterations(draft: Draft, step: PlannedStep, number: int) -> str:
    assert step.repeat is not None
    return f"the run {_verb(draft)} after {number} of at most {step.repeat.max_iterations} iterations"


def _complete_fan(draft: Draft, step: PlannedStep, record: StepRecord) -> None:
    counts = draft.counts(step.name)
    created = counts.total() - counts[Phase.SKIPPED]
    failed = counts[Phase.FAILED]
    if created < record.total and not is_cut(draft, step, record):
        return
    if failed > step.failures_borne(record.total):
        reason = Reason.TASKS_FAILED if step.max_failures is None else Reason.MAX_FAILURES
        end_step(draft, step, Phase.FAILED, reason, _failures(draft, step, record), record)
    elif created < record.total or counts[Phase.CANCELLED]:
        ended = created - counts[Phase.CANCELLED]
        _end_short(
            draft, step, record, f"the run {_verb(draft)} when {ended} of {record.total} tasks had run"
        )
    else:
        end_step(draft, step, Phase.SUCCEEDED, None, "", record)


def _end_short(draft: Draft, step: PlannedStep, record: StepRecord, message: str) -> None:
    """End a step that was stopped half way, through no fault of its own."""
    stop = draft.run.stop
    reason = Reason.WORKFLOW_FAILED if stop is None else STOPPED[stop][0]
    end_step(draft, step, Phase.CANCELLED, reason, message, record)


def _verb(draft: Draft) -> str:
    return "failed" if draft.run.stop is None else "was stopped"


def _failures(draft: Draft, step: PlannedStep, record: StepRecord) -> str:
    """How many tasks of a step failed, how many it would bear, and the first of them."""
    counts = draft.counts(step.name)
    first = next(
        task
        for key in task_keys(step, record)
        if (task := draft.task(key)) is not None and task.phase is Phase.FAILED
    )
    rest = record.total - counts.total() + counts[Phase.SKIPPED]
    text = f"{counts[Phase.FAILED]} of {record.total} tasks failed"
    if step.max_failures is not None:
        text += f", at most {step.failures_borne(record.total)} may"
    text += f", {rest} were not started" if rest else ""
    return shorten(f"{text}; first: {first.name}: {first.message}")
