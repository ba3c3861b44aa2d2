"""How attempts go: what was observed of them, how they end, and what follows for their task."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.deadlines import overdue_outcome
from perdure.domain.engine.observed import ChildRun, Observed
from perdure.domain.engine.outcome import (
    EndKind,
    Outcome,
    outcome_of_child,
    outcome_of_gone,
    outcome_of_pod,
    outcome_of_report,
    shorten,
)
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.engine.retry import backoff, disruption_delay
from perdure.domain.engine.scope import evaluate_condition
from perdure.domain.engine.task_scope import names_of_task
from perdure.domain.events import TASK_ENDED, EventType
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.names import pod_name
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AttemptRecord, TaskKey, TaskRecord

#: The kubelet's times are whole seconds, cut off.
_KUBELET_SECOND = timedelta(seconds=1)
#: What a task says that waits for a slot.
LIMITED = "the limit of tasks that may run at once in the namespace or in all is used up"


def observe_attempt(changes: ChangeSet, key: TaskKey, observed: Observed, *, overdue: bool) -> None:
    """Take note of what became of a task's open attempt. The agent's own report comes before its pod.

    `overdue`: its time was over by what was known before. One of which it is news that it has started has to
    be looked at again first: nobody has asked for its signs of life yet.
    """
    attempt = changes.open_attempt(key)
    task = changes.task(key)
    if attempt is None or task is None or task.phase.terminal:
        return
    step = changes.plan.steps[key.step]
    child = observed.children.get(key)
    if child is not None and child.uid != attempt.pod_uid:
        child = None
    attempt = _with_report(attempt, observed)
    task, attempt = note_start(changes, task, attempt, observed, child)
    outcome = _outcome(changes, step, attempt, observed, child)
    if outcome is None and overdue and attempt.stopping is None and not changes.paused:
        pod = _pod_of(attempt, observed)
        outcome = overdue_outcome(step, attempt, pod, observed, changes.looked_at)
    if attempt.stopping is not None:
        _observe_stopping(changes, task, attempt, outcome)
    elif outcome is not None:
        end_attempt(changes, task, attempt, outcome)


def note_start(
    changes: ChangeSet,
    task: TaskRecord,
    attempt: AttemptRecord,
    observed: Observed,
    child: ChildRun | None = None,
) -> tuple[TaskRecord, AttemptRecord]:
    """Take note that an open attempt has started, if that is news. Returns both as they are then."""
    started_at = _started_at(changes, attempt, observed, child)
    if attempt.started_at is not None or started_at is None:
        return task, attempt
    attempt = replace(attempt, started_at=started_at)
    task = replace(
        task, phase=Phase.RUNNING, reason=None, message="", started_at=task.started_at or changes.now
    )
    changes.put_attempt(attempt)
    changes.put_task(task)
    changes.event(EventType.TASK_STARTED, task=task, pod=attempt.pod_name)
    return task, attempt


def _with_report(attempt: AttemptRecord, observed: Observed) -> AttemptRecord:
    number, report = observed.reports.get(attempt.key, (0, None))
    return replace(attempt, report=report) if number == attempt.number else attempt


def _started_at(
    changes: ChangeSet, attempt: AttemptRecord, observed: Observed, child: ChildRun | None
) -> datetime | None:
    """When an attempt's container started, as near as we know; None if it has not.

    The kubelet's word counts if it is older than the moment: we may not have been there to see it.
    """
    if child is not None:
        return changes.now if child.started_at is not None or child.phase.terminal else None
    pod = _pod_of(attempt, observed)
    if pod is not None and pod.started_at is not None:
        return max(attempt.created_at, min(changes.now, pod.started_at + _KUBELET_SECOND))
    return changes.now if attempt.report is not None else None


def _outcome(
    changes: ChangeSet, step: PlannedStep, attempt: AttemptRecord, observed: Observed, child: ChildRun | None
) -> Outcome | None:
    """How an attempt ended; None if it goes on."""
    key = attempt.key
    if attempt.report is not None:
        return outcome_of_report(attempt.report)
    pod = _pod_of(attempt, observed)
    outcome: Outcome | None = None
    refusal = observed.refusals.get(key)
    if child is not None:
        outcome = outcome_of_child(child, attempt.pod_name)
    elif pod is not None:
        outcome = outcome_of_pod(pod, changes.now, result_required=step.result_required)
    elif key in observed.gone:
        outcome = outcome_of_gone(attempt.pod_name if step.kind == "workflow" else None)
    elif refusal is not None and refusal.attempt == attempt.number:
        outcome = Outcome(
            kind=EndKind.FAILED, reason=refusal.reason, message=refusal.message, retryable=False
        )
    return outcome


def _pod_of(attempt: AttemptRecord, observed: Observed) -> PodFacts | None:
    pod = observed.pods.get(attempt.key)
    return pod if pod is not None and pod.attempt == attempt.number else None


def _observe_stopping(
    changes: ChangeSet, task: TaskRecord, attempt: AttemptRecord, outcome: Outcome | None
) -> None:
    """The end of an attempt that was asked to leave for a pause.

    What the agent finished before it left counts; any other end is the answer to our own request, and
    spends neither retries nor disruptions.
    """
    if outcome is None:
        return
    if outcome.kind is EndKind.SUCCEEDED or attempt.report is not None:
        end_attempt(changes, task, attempt, outcome)
        return
    close_attempt(changes, attempt, Phase.CANCELLED, attempt.stopping, "left for a pause", outcome.exit_code)
    let_start(changes, task)


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


def end_attempt(changes: ChangeSet, task: TaskRecord, attempt: AttemptRecord, outcome: Outcome) -> None:
    """Close an attempt, and end its task or let it be tried again."""
    step = changes.plan.steps[task.key.step]
    succeeded = outcome.kind is EndKind.SUCCEEDED
    close_attempt(
        changes,
        attempt,
        Phase.SUCCEEDED if succeeded else Phase.FAILED,
        outcome.reason,
        outcome.message,
        outcome.exit_code,
    )
    if succeeded:
        task = replace(task, output=outcome.output, exit_code=outcome.exit_code)
        if step.cache is not None and task.cache_key is not None:
            task = replace(task, cache_until=changes.now + step.cache.ttl)
        end_task(changes, task, Phase.SUCCEEDED)
        return
    task = replace(
        task,
        exit_code=outcome.exit_code,
        last_failure={
            "attempt": attempt.number,
            "reason": None if outcome.reason is None else outcome.reason.value,
            "message": outcome.message,
            "exitCode": outcome.exit_code,
        },
    )
    if outcome.kind is EndKind.DISRUPTED:
        _after_disruption(changes, step, task, outcome)
    else:
        _after_failure(changes, step, task, outcome)


def _after_disruption(changes: ChangeSet, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> None:
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
        let_start(changes, task)


def _after_failure(changes: ChangeSet, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> None:
    try:
        again = (
            outcome.retryable and task.retries < step.retry.limit and _retries(changes, step, task, outcome)
        )
    except ExpressionError as error:
        message = shorten(f"{error}, when the attempt had failed: {outcome.message}")
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
        # Nobody knows how long a pause lasts.
        retryAt=None if changes.paused else (changes.now + delay).isoformat(),
        **_facts(outcome),
    )
    _delay(changes, task, delay, outcome.message)


def _retries(changes: ChangeSet, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> bool:
    """What `retry.on` says of a failure. Raises ExpressionError."""
    if step.retry.on is None:
        return True
    names = {
        **names_of_task(changes, step, task.key.index),
        "attempt": {
            "number": task.attempt,
            "exitCode": outcome.exit_code,
            "reason": None if outcome.reason is None else outcome.reason.value,
            "message": outcome.message,
            "disruptions": task.disruptions,
        },
    }
    return evaluate_condition(step.retry.on, names, "retry.on")


def _facts(outcome: Outcome) -> dict[str, object]:
    return {"reason": outcome.reason, "message": outcome.message, "exitCode": outcome.exit_code}


def _delay(changes: ChangeSet, task: TaskRecord, delay: timedelta, message: str) -> None:
    # While a run is paused no time passes: the whole delay is left when it is resumed.
    start = changes.run.paused_at if changes.paused and changes.run.paused_at is not None else changes.now
    phase, reason = (Phase.PAUSED, Reason.PAUSED) if changes.paused else (Phase.PENDING, Reason.BACKOFF)
    changes.put_task(replace(task, phase=phase, reason=reason, message=message, retry_at=start + delay))


def end_task(
    changes: ChangeSet, task: TaskRecord, phase: Phase, reason: Reason | None = None, message: str = ""
) -> None:
    """End a task. Its attempt, if it has one, is closed already."""
    task = replace(task, phase=phase, reason=reason, message=message, retry_at=None, finished_at=changes.now)
    changes.put_task(task)
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


def let_start(changes: ChangeSet, task: TaskRecord) -> None:
    """Let a task's next attempt start as soon as it may: in this decision, if nothing is against it.

    Whether something is depends on all that was observed, so no attempt is opened before that is known.
    """
    phase, reason = (Phase.PAUSED, Reason.PAUSED) if changes.paused else (Phase.PENDING, Reason.STARTING)
    changes.put_task(replace(task, phase=phase, reason=reason, message="", retry_at=None))


def start_attempt(changes: ChangeSet, task: TaskRecord) -> None:
    """Open the task's next attempt, if there is a slot for it; its pod is made once this is committed."""
    if changes.plan.steps[task.key.step].kind == "agent" and changes.slots is not None:
        if changes.slots <= 0:
            changes.wants += 1
            if task.reason is not Reason.LIMIT:
                reason, message = Reason.LIMIT, LIMITED
                changes.put_task(
                    replace(task, phase=Phase.PENDING, reason=reason, message=message, retry_at=None)
                )
            return
        changes.slots -= 1
    number = task.attempt + 1
    task = replace(
        task, phase=Phase.PENDING, reason=Reason.STARTING, message="", attempt=number, retry_at=None
    )
    changes.put_task(task)
    changes.put_attempt(
        AttemptRecord(
            key=task.key,
            number=number,
            pod_name=pod_name(task.name, changes.run.uid, task.key, number),
            created_at=changes.now,
        )
    )
    changes.event(EventType.TASK_SCHEDULED, task=task)
