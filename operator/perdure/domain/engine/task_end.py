"""How tasks and attempts end: closed, cancelled, succeeded with a result that others may reuse."""

from __future__ import annotations

from dataclasses import replace

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.events import TASK_ENDED
from perdure.domain.payloads import Payload
from perdure.domain.phases import END_TRIGGERS, Phase, Reason
from perdure.domain.records import AttemptRecord, TaskRecord


def close_attempt(
    changes: ChangeSet,
    attempt: AttemptRecord,
    outcome: Phase,
    reason: Reason | None,
    message: str,
    exit_code: int | None = None,
) -> None:
    """From here on the attempt can write nothing."""
    changes.put_attempt(
        replace(
            attempt,
            closed_at=changes.now,
            outcome=outcome,
            reason=reason,
            message=message,
            exit_code=exit_code,
        )
    )


def end_task(
    changes: ChangeSet, task: TaskRecord, phase: Phase, reason: Reason | None = None, message: str = ""
) -> None:
    """End a task. Its attempt, if it has one, is closed already."""
    task = replace(task, phase=phase, reason=reason, message=message, retry_at=None, finished_at=changes.now)
    changes.put_task(task, END_TRIGGERS[phase])
    changes.event(
        TASK_ENDED[phase],
        task=task,
        reason=reason,
        message=message or None,
        exitCode=task.exit_code if phase is Phase.FAILED else None,
    )


def stop_task(changes: ChangeSet, task: TaskRecord, reason: Reason, message: str) -> None:
    """Cancel a task with its attempt, at once."""
    attempt = changes.open_attempt(task.key)
    if attempt is not None:
        close_attempt(changes, attempt, Phase.CANCELLED, reason, message)
    end_task(changes, task, Phase.CANCELLED, reason, message)


def succeed_task(
    changes: ChangeSet,
    step: PlannedStep,
    task: TaskRecord,
    output: Payload | None,
    *,
    exit_code: int | None = None,
) -> None:
    """End a task with its result, and keep the result for others if the step has a `cache`."""
    task = replace(task, output=output, exit_code=exit_code)
    if step.cache is not None and task.cache_key is not None:
        task = replace(task, cache_until=changes.now + step.cache.ttl)
    end_task(changes, task, Phase.SUCCEEDED)
