"""How attempts go: what was observed of them, how they end, and what follows for their task."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from perdure.domain.cel import ExpressionError
from perdure.domain.draft import Draft
from perdure.domain.facts import PodFacts
from perdure.domain.names import pod_name
from perdure.domain.observed import ChildRun, Observed
from perdure.domain.outcome import (
    Kind,
    Outcome,
    outcome_of_child,
    outcome_of_gone,
    outcome_of_pod,
    outcome_of_report,
    shorten,
)
from perdure.domain.phases import Phase, Reason
from perdure.domain.plan import PlannedStep
from perdure.domain.records import AttemptRecord, TaskKey, TaskRecord
from perdure.domain.retry import backoff, disruption_delay
from perdure.domain.scope import evaluate_condition
from perdure.domain.taskscope import names_of_task
from perdure.domain.timers import overdue_outcome

#: The kubelet's times are whole seconds, cut off.
_KUBELET_SECOND = timedelta(seconds=1)
#: What a task says that waits for a slot.
LIMITED = "the limit of tasks that may run at once in the namespace or in all is used up"


def observe_attempt(draft: Draft, key: TaskKey, observed: Observed, *, overdue: bool) -> None:
    """Take note of what became of a task's open attempt. The agent's own report comes before its pod.

    `overdue`: its time was over by what was known before. One of which it is news that it has started has to
    be looked at again first: nobody has asked for its signs of life yet.
    """
    attempt = draft.open_attempt(key)
    task = draft.task(key)
    if attempt is None or task is None or task.phase.terminal:
        return
    step = draft.plan.steps[key.step]
    child = observed.children.get(key)
    if child is not None and child.uid != attempt.pod_uid:
        child = None
    attempt = _with_report(attempt, observed)
    task, attempt = note_start(draft, task, attempt, observed, child)
    outcome = _outcome(draft, step, attempt, observed, child)
    if outcome is None and overdue and attempt.stopping is None and not draft.paused:
        pod = _pod_of(attempt, observed)
        outcome = overdue_outcome(step, attempt, pod, observed, draft.looked_at)
    if attempt.stopping is not None:
        _observe_stopping(draft, task, attempt, outcome)
    elif outcome is not None:
        end_attempt(draft, task, attempt, outcome)


def note_start(
    draft: Draft,
    task: TaskRecord,
    attempt: AttemptRecord,
    observed: Observed,
    child: ChildRun | None = None,
) -> tuple[TaskRecord, AttemptRecord]:
    """Take note that an open attempt has started, if that is news. Returns both as they are then."""
    started_at = _started_at(draft, attempt, observed, child)
    if attempt.started_at is not None or started_at is None:
        return task, attempt
    attempt = replace(attempt, started_at=started_at)
    task = replace(
        task, phase=Phase.RUNNING, reason=None, message="", started_at=task.started_at or draft.now
    )
    draft.put_attempt(attempt)
    draft.put_task(task)
    draft.event("task.started", task=task, pod=attempt.pod_name)
    return task, attempt


def _with_report(attempt: AttemptRecord, observed: Observed) -> AttemptRecord:
    number, report = observed.reports.get(attempt.key, (0, None))
    return replace(attempt, report=report) if number == attempt.number else attempt


def _started_at(
    draft: Draft, attempt: AttemptRecord, observed: Observed, child: ChildRun | None
) -> datetime | None:
    """When an attempt's container started, as near as we know; None if it has not.

    The kubelet's word counts if it is older than the moment: we may not have been there to see it.
    """
    if child is not None:
        return draft.now if child.started_at is not None or child.phase.terminal else None
    pod = _pod_of(attempt, observed)
    if pod is not None and pod.started_at is not None:
        return max(attempt.created_at, min(draft.now, pod.started_at + _KUBELET_SECOND))
    return draft.now if attempt.report is not None else None


def _outcome(
    draft: Draft, step: PlannedStep, attempt: AttemptRecord, observed: Observed, child: ChildRun | None
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
        outcome = outcome_of_pod(pod, draft.now, result_required=step.result_required)
    elif key in observed.gone:
        outcome = outcome_of_gone(attempt.pod_name if step.kind == "workflow" else None)
    elif refusal is not None and refusal.attempt == attempt.number:
        outcome = Outcome(kind=Kind.FAILED, reason=refusal.reason, message=refusal.message, retryable=False)
    return outcome


def _pod_of(attempt: AttemptRecord, observed: Observed) -> PodFacts | None:
    pod = observed.pods.get(attempt.key)
    return pod if pod is not None and pod.attempt == attempt.number else None


def _observe_stopping(
    draft: Draft, task: TaskRecord, attempt: AttemptRecord, outcome: Outcome | None
) -> None:
    """The end of an attempt that was asked to leave for a pause.

    What the agent finished before it left counts; any other end is the answer to our own request, and
    spends neither retries nor disruptions.
    """
    if outcome is None:
        return
    if outcome.kind is Kind.SUCCEEDED or attempt.report is not None:
        end_attempt(draft, task, attempt, outcome)
        return
    close_attempt(draft, attempt, Phase.CANCELLED, attempt.stopping, "left for a pause", outcome.exit_code)
    let_start(draft, task)


def close_attempt(
    draft: Draft,
    attempt: AttemptRecord,
    outcome: Phase,
    reason: Reason | None,
    message: str,
    exit_code: int | None = None,
) -> None:
    """From here on the attempt can write nothing."""
    draft.put_attempt(
        replace(
            attempt,
            closed_at=draft.now,
            outcome=outcome,
            reason=reason,
            message=message,
            exit_code=exit_code,
        )
    )


def end_attempt(draft: Draft, task: TaskRecord, attempt: AttemptRecord, outcome: Outcome) -> None:
    """Close an attempt, and end its task or let it be tried again."""
    step = draft.plan.steps[task.key.step]
    succeeded = outcome.kind is Kind.SUCCEEDED
    close_attempt(
        draft,
        attempt,
        Phase.SUCCEEDED if succeeded else Phase.FAILED,
        outcome.reason,
        outcome.message,
        outcome.exit_code,
    )
    if succeeded:
        task = replace(task, output=outcome.output, exit_code=outcome.exit_code)
        if step.cache is not None and task.cache_key is not None:
            task = replace(task, cache_until=draft.now + step.cache.ttl)
        end_task(draft, task, Phase.SUCCEEDED)
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
    if outcome.kind is Kind.DISRUPTED:
        _after_disruption(draft, step, task, outcome)
    else:
        _after_failure(draft, step, task, outcome)


def _after_disruption(draft: Draft, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> None:
    task = replace(task, disruptions=task.disruptions + 1)
    draft.event("task.disrupted", task=task, disruptions=task.disruptions, **_facts(outcome))
    limit = step.disruption_limit
    if task.disruptions > limit:
        message = f"{task.disruptions} disruptions, the limit is {limit}; last: {outcome.message}"
        end_task(draft, task, Phase.FAILED, Reason.DISRUPTION_LIMIT, shorten(message))
        return
    delay = disruption_delay(draft.run.uid, task.key, task.disruptions)
    if delay:
        _delay(draft, task, delay, outcome.message)
    else:
        let_start(draft, task)


def _after_failure(draft: Draft, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> None:
    try:
        again = outcome.retryable and task.retries < step.retry.limit and _retries(draft, step, task, outcome)
    except ExpressionError as error:
        message = shorten(f"{error}, when the attempt had failed: {outcome.message}")
        end_task(draft, task, Phase.FAILED, Reason.EXPRESSION_ERROR, message)
        return
    if not again:
        end_task(draft, task, Phase.FAILED, outcome.reason, outcome.message)
        return
    task = replace(task, retries=task.retries + 1)
    delay = backoff(draft.run.uid, task.key, task.retries, step.retry.backoff)
    draft.event(
        "task.retrying",
        task=task,
        retry=task.retries,
        limit=step.retry.limit,
        # Nobody knows how long a pause lasts.
        retryAt=None if draft.paused else (draft.now + delay).isoformat(),
        **_facts(outcome),
    )
    _delay(draft, task, delay, outcome.message)


def _retries(draft: Draft, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> bool:
    """What `retry.on` says of a failure. Raises ExpressionError."""
    if step.retry.on is None:
        return True
    names = {
        **names_of_task(draft, step, task.key.index),
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


def _delay(draft: Draft, task: TaskRecord, delay: timedelta, message: str) -> None:
    # While a run is paused no time passes: the whole delay is left when it is resumed.
    start = draft.run.paused_at if draft.paused and draft.run.paused_at is not None else draft.now
    phase, reason = (Phase.PAUSED, Reason.PAUSED) if draft.paused else (Phase.PENDING, Reason.BACKOFF)
    draft.put_task(replace(task, phase=phase, reason=reason, message=message, retry_at=start + delay))


def end_task(
    draft: Draft, task: TaskRecord, phase: Phase, reason: Reason | None = None, message: str = ""
) -> None:
    """End a task. Its attempt, if it has one, is closed already."""
    task = replace(task, phase=phase, reason=reason, message=message, retry_at=None, finished_at=draft.now)
    draft.put_task(task)
    draft.event(
        f"task.{phase.value.lower()}",
        task=task,
        reason=reason,
        message=message or None,
        exitCode=task.exit_code if phase is Phase.FAILED else None,
    )


def stop_task(draft: Draft, task: TaskRecord, reason: Reason, message: str) -> None:
    """Cancel a task with its attempt, at once."""
    attempt = draft.open_attempt(task.key)
    if attempt is not None:
        close_attempt(draft, attempt, Phase.CANCELLED, reason, message)
    end_task(draft, task, Phase.CANCELLED, reason, message)


def let_start(draft: Draft, task: TaskRecord) -> None:
    """Let a task's next attempt start as soon as it may: in this decision, if nothing is against it.

    Whether something is depends on all that was observed, so no attempt is opened before that is known.
    """
    phase, reason = (Phase.PAUSED, Reason.PAUSED) if draft.paused else (Phase.PENDING, Reason.STARTING)
    draft.put_task(replace(task, phase=phase, reason=reason, message="", retry_at=None))


def start_attempt(draft: Draft, task: TaskRecord) -> None:
    """Open the task's next attempt, if there is a slot for it; its pod is made once this is committed."""
    if draft.plan.steps[task.key.step].kind == "agent" and draft.slots is not None:
        if draft.slots <= 0:
            draft.wants += 1
            if task.reason is not Reason.LIMIT:
                reason, message = Reason.LIMIT, LIMITED
                draft.put_task(
                    replace(task, phase=Phase.PENDING, reason=reason, message=message, retry_at=None)
                )
            return
        draft.slots -= 1
    number = task.attempt + 1
    task = replace(
        task, phase=Phase.PENDING, reason=Reason.STARTING, message="", attempt=number, retry_at=None
    )
    draft.put_task(task)
    draft.put_attempt(
        AttemptRecord(
            key=task.key,
            number=number,
            pod_name=pod_name(task.name, draft.run.uid, task.key, number),
            created_at=draft.now,
        )
    )
    draft.event("task.scheduled", task=task)
