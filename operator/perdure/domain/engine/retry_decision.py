"""The decision whether a task gets another attempt, and when: after a failure, a disruption, a pause.

Failures spend the retry budget and disruptions their own, so a node that is lost never costs a retry.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import Outcome, shorten
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.retry import backoff, disruption_delay
from perdure.domain.engine.scope import evaluate_condition
from perdure.domain.engine.task_end import end_task
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.events import EventType
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.phases import Phase, Reason, Trigger
from perdure.domain.records import TaskRecord


def allow_start(changes: ChangeSet, task: TaskRecord) -> None:
    """Let a task's next attempt start as soon as it may: in this decision, if nothing is against it.

    Whether something is depends on all that was observed, so no attempt is opened before that is known.
    """
    held = replace(task, phase=Phase.PAUSED, reason=Reason.PAUSED, message="", retry_at=None)
    if changes.paused:
        changes.put_task(held, Trigger.PAUSE)
    else:
        changes.put_task(replace(held, phase=Phase.PENDING, reason=Reason.STARTING), Trigger.WAIT)


def after_disruption(changes: ChangeSet, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> None:
    """Replace an attempt that was lost, at once or after a delay, or give the task up."""
    task = replace(task, disruptions=task.disruptions + 1)
    changes.event(EventType.TASK_DISRUPTED, task=task, disruptions=task.disruptions, **_facts(outcome))
    limit = step.disruption_limit
    if task.disruptions > limit:
        message = f"{task.disruptions} disruptions, the limit is {limit}; last: {outcome.message}"
        end_task(changes, task, Phase.FAILED, Reason.DISRUPTION_LIMIT, shorten(message))
        return
    delay = disruption_delay(changes.run.uid, task.key, task.disruptions)
    if delay:
        _delay(changes, task, delay, outcome.message)
    else:
        allow_start(changes, task)


def judge_failure(
    changes: ChangeSet, step: PlannedStep, task: TaskRecord, outcome: Outcome
) -> bool | ExpressionError:
    """Whether budget and `retry.on` allow another attempt; the error, if `retry.on` gives one.

    `task` is as it was during the attempt. Raises EvaluationPending.
    """
    try:
        return (
            outcome.retryable and task.retries < step.retry.limit and _retries(changes, step, task, outcome)
        )
    except ExpressionError as error:
        return error


def after_failure(
    changes: ChangeSet,
    step: PlannedStep,
    task: TaskRecord,
    outcome: Outcome,
    *,
    again: bool | ExpressionError,
) -> None:
    """Retry a task whose attempt failed, or fail the task; `again` is what `judge_failure` gave."""
    if isinstance(again, ExpressionError):
        message = shorten(f"{again}, when the attempt had failed: {outcome.message}")
        end_task(changes, task, Phase.FAILED, Reason.EXPRESSION_ERROR, message)
        return
    if not again:
        end_task(changes, task, Phase.FAILED, outcome.reason, outcome.message)
        return
    task = replace(task, retries=task.retries + 1)
    delay = backoff(changes.run.uid, task.key, task.retries, step.retry.backoff)
    changes.event(
        EventType.TASK_RETRYING,
        task=task,
        retry=task.retries,
        limit=step.retry.limit,
        # How long the pause lasts is not known.
        retryAt=None if changes.paused else (changes.now + delay).isoformat(),
        **_facts(outcome),
    )
    _delay(changes, task, delay, outcome.message)


def _retries(changes: ChangeSet, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> bool:
    """What `retry.on` says of a failure. Raises ExpressionError."""
    if step.retry.on is None:
        return True
    attempt = {
        "number": task.attempt,
        "exitCode": outcome.exit_code,
        "reason": None if outcome.reason is None else outcome.reason.value,
        "message": outcome.message,
        "disruptions": task.disruptions,
    }
    names = TaskScope(changes, step, task.key.index, changes.evaluation).names.plus(attempt=attempt)
    return evaluate_condition(step.retry.on, names, "retry.on")


def _facts(outcome: Outcome) -> dict[str, object]:
    return {"reason": outcome.reason, "message": outcome.message, "exitCode": outcome.exit_code}


def _delay(changes: ChangeSet, task: TaskRecord, delay: timedelta, message: str) -> None:
    # While a run is paused no time passes: the whole delay is left when it is resumed.
    start = changes.run.paused_at if changes.paused and changes.run.paused_at is not None else changes.now
    held = replace(task, phase=Phase.PAUSED, reason=Reason.PAUSED, message=message, retry_at=start + delay)
    if changes.paused:
        changes.put_task(held, Trigger.PAUSE)
    else:
        changes.put_task(replace(held, phase=Phase.PENDING, reason=Reason.BACKOFF), Trigger.WAIT)
