"""How a run ends: its phase by the phases of its steps, its outputs, and from when its retention counts."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.cel import ExpressionError
from perdure.domain.draft import Draft
from perdure.domain.outcome import shorten
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, StepRecord, TaskKey, TaskRecord
from perdure.domain.scope import scope, step_values
from perdure.domain.stopping import finally_ended, is_cancelled, main_ended
from perdure.domain.templating import render


def finish(draft: Draft) -> None:
    """End the run once all its steps have ended, the finally steps included."""
    if not (main_ended(draft) and finally_ended(draft)):
        return
    stopped = not _ended_by_itself(draft)
    if stopped and is_cancelled(draft.run):
        end_run(draft, Phase.CANCELLED, Reason.CANCELLED, f"the {draft.run.kind} was cancelled")
        return
    if stopped and draft.run.stop is not None:
        assert draft.plan.timeout is not None
        text = f"did not end within its timeout of {draft.plan.timeout.total_seconds():g}s"
        end_run(draft, Phase.FAILED, Reason.TIMEOUT, text)
        return
    failed = _failed(draft, draft.plan.order) or _failed(draft, draft.plan.finally_order)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        text = f"step {failed[0].name!r} failed{more}: " if failed[0].name else ""
        end_run(draft, Phase.FAILED, failed[0].reason, shorten(text + failed[0].message))
        return
    try:
        every = (*draft.plan.order, *draft.plan.finally_order)
        names = scope(draft, step_values(draft, every) if draft.plan.outputs else {}, is_finally=True)
        outputs = render(draft.plan.outputs, names, "spec.outputs")
    except ExpressionError as error:
        end_run(draft, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        return
    draft.replace_run(outputs=outputs)
    end_run(draft, Phase.SUCCEEDED, None, "")


def _ended_by_itself(draft: Draft) -> bool:
    """True for an AgentTask whose agent was done before the stop reached it: it ends as its task does."""
    if draft.run.kind != AGENT_TASK:
        return False
    task = draft.task(TaskKey(draft.plan.order[0]))
    return task is not None and task.phase in (Phase.SUCCEEDED, Phase.FAILED)


def _failed(draft: Draft, names: Iterable[str]) -> list[StepRecord]:
    """Steps whose failure is that of the run."""
    records = (draft.step(name) for name in names if not draft.plan.steps[name].continue_on_failure)
    return [record for record in records if record is not None and record.phase is Phase.FAILED]


def end_run(draft: Draft, phase: Phase, reason: Reason | None, message: str) -> None:
    """End the run in a terminal phase, from which its retention counts."""
    draft.replace_run(
        phase=phase,
        reason=reason,
        message=message,
        paused_at=None,
        finished_at=draft.now,
        expires_at=draft.now + draft.plan.retention,
    )
    draft.event(f"workflow.{phase.value.lower()}", reason=reason, message=message or None)
    alone = TaskKey(draft.plan.order[0]) if draft.run.kind == AGENT_TASK and draft.plan.order else None
    if alone is not None and draft.task(alone) is None:
        # It never came to have a task that could tell of its end.
        task = TaskRecord(key=alone, name=draft.run.name, phase=phase)
        draft.event(f"task.{phase.value.lower()}", task=task, reason=reason, message=message or None)
