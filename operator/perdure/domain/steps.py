"""How steps go: looked at when their dependencies have ended, filled with tasks, and ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perdure.api.workflow import MAX_ITEMS
from perdure.domain.attempts import end_task, start_attempt
from perdure.domain.cel import ExpressionError
from perdure.domain.draft import Draft
from perdure.domain.names import task_name
from perdure.domain.outcome import shorten
from perdure.domain.phases import Phase, Reason
from perdure.domain.plan import PlannedStep
from perdure.domain.records import AGENT_TASK, NO_INDEX, StepRecord, TaskKey, TaskRecord
from perdure.domain.scope import evaluate_items, item_scope, render_agent, scope, step_values
from perdure.domain.templating import compact, render

#: Tasks made by one decision. A larger fan-out takes several, so that no commit grows without bound.
MAX_NEW_TASKS = 250
#: Compact JSON of one task's input.
MAX_TASK_INPUT_BYTES = 1024 * 1024


def advance(draft: Draft) -> bool:
    """Look at every step that is not terminal, in order. True if there is more to start at once."""
    budget = MAX_NEW_TASKS
    for name in draft.plan.order:
        record = draft.step(name)
        if record is None and budget:
            record = _look_at_step(draft, draft.plan.steps[name])
        if record is None or record.phase.terminal:
            continue
        budget = _fill_step(draft, draft.plan.steps[name], record, budget)
        _complete_step(draft, name)
    return budget == 0


def _look_at_step(draft: Draft, step: PlannedStep) -> StepRecord | None:
    """Start or skip a step whose dependencies have all ended. None if it has to wait for them."""
    phases = [None if (record := draft.step(name)) is None else record.phase for name in step.depends_on]
    if any(phase is None or not phase.terminal for phase in phases):
        return None
    if any(phase is not Phase.SUCCEEDED for phase in phases):
        unmet = next(
            name for name, phase in zip(step.depends_on, phases, strict=True) if phase is not Phase.SUCCEEDED
        )
        return _skip(draft, step, Reason.DEPENDENCY_NOT_MET, f"step {unmet!r} did not succeed")
    if draft.failing:
        return _skip(draft, step, Reason.WORKFLOW_FAILED, "the run failed before this step could start")
    total = 1
    if step.is_for_each:
        try:
            total = len(_items(draft, step) or ())
        except ExpressionError as error:
            return end_step(draft, step, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        if total > MAX_ITEMS:
            message = f"forEach has {total} items; the limit is {MAX_ITEMS}, use fewer, larger ones"
            return end_step(draft, step, Phase.FAILED, Reason.TOO_MANY_ITEMS, message)
    if draft.run.phase is Phase.PENDING:
        draft.replace_run(phase=Phase.RUNNING, started_at=draft.now, reason=None, message="")
        draft.event("workflow.started")
    record = StepRecord(name=step.name, phase=Phase.PENDING, total=total, for_each=step.is_for_each)
    if total and not _has_room(draft):
        message = f"parallelism {draft.plan.parallelism} is used up"
        record = replace(record, reason=Reason.PARALLELISM, message=message)
        draft.put_step(record)
        return record
    return _start_step(draft, record)


def _start_step(draft: Draft, record: StepRecord) -> StepRecord:
    record = replace(record, phase=Phase.RUNNING, reason=None, message="", started_at=draft.now)
    draft.put_step(record)
    return record


def _has_room(draft: Draft) -> bool:
    limit = draft.plan.parallelism
    return limit is None or draft.live < limit


def _fill_step(draft: Draft, step: PlannedStep, record: StepRecord, budget: int) -> int:
    """Make the step's next tasks as far as parallelism and the budget go. Returns what is left of it."""
    created = draft.counts(step.name).total()
    while created < record.total and budget and not draft.failing and _has_room(draft):
        if record.phase is Phase.PENDING:
            record = _start_step(draft, record)
        _create_task(draft, step, created if record.for_each else NO_INDEX)
        created += 1
        budget -= 1
    return budget


def _create_task(draft: Draft, step: PlannedStep, index: int) -> None:
    run = draft.run
    key = TaskKey(step.name, index)
    name = run.name if run.kind == AGENT_TASK else task_name(run.name, run.uid, key)
    task = TaskRecord(key=key, name=name, phase=Phase.PENDING)
    try:
        names = names_of_task(draft, step, index)
        value = render(step.input, names, "input")
        render_agent(step, names)  # a fault here must show before a pod is asked for
        size = len(compact(value))
        if size > MAX_TASK_INPUT_BYTES:
            raise ExpressionError(f"input: {size} bytes of JSON; the limit is {MAX_TASK_INPUT_BYTES}")
    except ExpressionError as error:
        end_task(draft, task, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        return
    start_attempt(draft, replace(task, input=value))


def names_of_task(records: Draft, step: PlannedStep, index: int) -> Mapping[str, Any]:
    """The names that the expressions of one task see. Raises ExpressionError if `forEach` fails."""
    names = scope(records, _step_values(records, step))
    return item_scope(names, _items(records, step) if step.is_for_each else None, index)


def _items(draft: Draft, step: PlannedStep) -> list[Any]:
    """The items of a step, evaluated once: they follow from inputs and steps that have ended."""
    items = draft.items_of(step.name)
    if items is None:
        items = evaluate_items(step, scope(draft, _step_values(draft, step)))
        draft.remember(step).items[step.name] = items
    return items


def _step_values(draft: Draft, step: PlannedStep) -> Mapping[str, Any]:
    """What the step's expressions see of its dependencies, which have all ended: computed once."""
    values = draft.step_values_of(step.name)
    if values is None:
        values = step_values(draft, step.depends_on)
        draft.remember(step).step_values[step.name] = values
    return values


def _complete_step(draft: Draft, name: str) -> None:
    """End a step when nothing of it runs and nothing more of it will start."""
    record = draft.step(name)
    assert record is not None
    counts = draft.counts(name)
    created = counts.total()
    if any(not phase.terminal and number for phase, number in counts.items()):
        return
    if created < record.total and not draft.failing:
        return
    step = draft.plan.steps[name]
    failed = counts[Phase.FAILED]
    if record.phase is Phase.PENDING:
        _skip(draft, step, Reason.WORKFLOW_FAILED, "the run failed before this step could start")
    elif not record.for_each:
        task = draft.task(TaskKey(name))
        assert task is not None
        end_step(draft, step, task.phase, task.reason, task.message, record)
    elif failed:
        first = next(
            task
            for index in range(record.total)
            if (task := draft.task(TaskKey(name, index))) is not None and task.phase is Phase.FAILED
        )
        rest = record.total - created
        message = f"{failed} of {record.total} tasks failed" + (f", {rest} were not started" if rest else "")
        message = f"{message}; first: {first.name}: {first.message}"
        end_step(draft, step, Phase.FAILED, Reason.TASKS_FAILED, shorten(message), record)
    elif created < record.total:
        message = f"the run failed when {created} of {record.total} tasks had run"
        end_step(draft, step, Phase.CANCELLED, Reason.WORKFLOW_FAILED, message, record)
    else:
        end_step(draft, step, Phase.SUCCEEDED, None, "", record)


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
    return record


def _skip(draft: Draft, step: PlannedStep, reason: Reason, message: str) -> StepRecord:
    record = end_step(draft, step, Phase.SKIPPED, reason, message)
    draft.event("task.skipped", step=step.name, reason=reason, message=message)
    return record
