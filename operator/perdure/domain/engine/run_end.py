"""How a run ends: its phase by the phases of its steps, its outputs, and from when its retention counts."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.run_control import finally_ended, is_cancelled, main_ended
from perdure.domain.engine.scope import scope, step_values
from perdure.domain.events import TASK_ENDED, WORKFLOW_ENDED
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.evaluation import EvaluationPending
from perdure.domain.expressions.templating import render
from perdure.domain.payloads import payload_of
from perdure.domain.phases import END_TRIGGERS, Phase, Reason
from perdure.domain.records import AGENT_TASK, StepRecord, TaskKey, TaskRecord


def finish(changes: ChangeSet) -> None:
    """End the run once all its steps have ended, the finally steps included."""
    if not (main_ended(changes) and finally_ended(changes)):
        return
    stopped = not _ended_by_itself(changes)
    if stopped and is_cancelled(changes.run):
        end_run(changes, Phase.CANCELLED, Reason.CANCELLED, f"the {changes.run.kind} was cancelled")
        return
    if stopped and changes.run.stop is not None:
        assert changes.plan.timeout is not None
        text = f"did not end within its timeout of {changes.plan.timeout.total_seconds():g}s"
        end_run(changes, Phase.FAILED, Reason.TIMEOUT, text)
        return
    failed = _failed(changes, changes.plan.order) or _failed(changes, changes.plan.finally_order)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        text = f"step {failed[0].name!r} failed{more}: " if failed[0].name else ""
        end_run(changes, Phase.FAILED, failed[0].reason, shorten(text + failed[0].message))
        return
    try:
        every = (*changes.plan.order, *changes.plan.finally_order)
        values = step_values(changes, every) if changes.plan.outputs else {}
        names = scope(changes, values, is_finally=True, evaluation=changes.evaluation)
        outputs = render(changes.plan.outputs, names, "spec.outputs")
    except EvaluationPending:
        return
    except ExpressionError as error:
        end_run(changes, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        return
    changes.replace_run(outputs=payload_of(outputs))
    end_run(changes, Phase.SUCCEEDED, None, "")


def _ended_by_itself(changes: ChangeSet) -> bool:
    """True for an AgentTask whose agent was done before the stop reached it: it ends as its task does."""
    if changes.run.kind != AGENT_TASK:
        return False
    task = changes.task(TaskKey(changes.plan.order[0]))
    return task is not None and task.phase in (Phase.SUCCEEDED, Phase.FAILED)


def _failed(changes: ChangeSet, names: Iterable[str]) -> list[StepRecord]:
    """Steps whose failure is that of the run."""
    records = (changes.step(name) for name in names if not changes.plan.steps[name].continue_on_failure)
    return [record for record in records if record is not None and record.phase is Phase.FAILED]


def end_run(changes: ChangeSet, phase: Phase, reason: Reason | None, message: str) -> None:
    """End the run in a terminal phase, from which its retention counts."""
    changes.replace_run(
        END_TRIGGERS[phase],
        phase=phase,
        reason=reason,
        message=message,
        paused_at=None,
        finished_at=changes.now,
        expires_at=changes.now + changes.plan.retention,
    )
    changes.event(WORKFLOW_ENDED[phase], reason=reason, message=message or None)
    alone = TaskKey(changes.plan.order[0]) if changes.run.kind == AGENT_TASK and changes.plan.order else None
    if alone is not None and changes.task(alone) is None:
        # No task was created, whose event would report the end.
        task = TaskRecord(key=alone, name=changes.run.name, phase=phase)
        changes.event(TASK_ENDED[phase], task=task, reason=reason, message=message or None)
