"""How attempts go: what was observed of them, how they end, and what follows for their task."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from perdure.domain.draft import Draft
from perdure.domain.names import pod_name
from perdure.domain.observed import Observed
from perdure.domain.outcome import (
    Kind,
    Outcome,
    outcome_of_gone,
    outcome_of_pod,
    outcome_of_report,
    shorten,
)
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AttemptRecord, TaskKey, TaskRecord
from perdure.domain.retry import DISRUPTION_LIMIT, backoff, disruption_delay


def observe_attempt(draft: Draft, key: TaskKey, observed: Observed) -> None:
    """Take note of what became of a task's open attempt. The agent's own report comes before its pod."""
    attempt = draft.open_attempt(key)
    task = draft.task(key)
    if attempt is None or task is None or task.phase.terminal:
        return
    pod = observed.pods.get(key)
    if pod is not None and pod.attempt != attempt.number:
        pod = None
    report = attempt.report
    if key in observed.reports and observed.reports[key][0] == attempt.number:
        report = observed.reports[key][1]
    refusal = observed.refusals.get(key)
    outcome: Outcome | None = None
    if report is not None:
        outcome = outcome_of_report(report)
    elif pod is not None:
        outcome = outcome_of_pod(pod, draft.now)
    elif key in observed.gone:
        outcome = outcome_of_gone()
    elif refusal is not None and refusal.attempt == attempt.number:
        outcome = Outcome(kind=Kind.FAILED, reason=refusal.reason, message=refusal.message, retryable=False)
    started = pod is not None and pod.started_at is not None
    if attempt.started_at is None and (started or report is not None):
        attempt = replace(attempt, started_at=draft.now)
        task = replace(
            task, phase=Phase.RUNNING, reason=None, message="", started_at=task.started_at or draft.now
        )
        draft.put_attempt(attempt)
        draft.put_task(task)
        draft.event("task.started", task=task, pod=attempt.pod_name)
    if outcome is not None:
        _end_attempt(draft, task, replace(attempt, report=report), outcome)


def _end_attempt(draft: Draft, task: TaskRecord, attempt: AttemptRecord, outcome: Outcome) -> None:
    """Close an attempt, and end its task or let it be tried again."""
    succeeded = outcome.kind is Kind.SUCCEEDED
    draft.put_attempt(
        replace(
            attempt,
            closed_at=draft.now,
            outcome=Phase.SUCCEEDED if succeeded else Phase.FAILED,
            reason=outcome.reason,
            message=outcome.message,
            exit_code=outcome.exit_code,
        )
    )
    if succeeded:
        end_task(draft, replace(task, output=outcome.output, exit_code=outcome.exit_code), Phase.SUCCEEDED)
        return
    task = replace(task, exit_code=outcome.exit_code)
    facts = {"reason": outcome.reason, "message": outcome.message, "exitCode": outcome.exit_code}
    if outcome.kind is Kind.DISRUPTED:
        task = replace(task, disruptions=task.disruptions + 1)
        draft.event("task.disrupted", task=task, disruptions=task.disruptions, **facts)
        if task.disruptions > DISRUPTION_LIMIT:
            message = (
                f"{task.disruptions} disruptions, the limit is {DISRUPTION_LIMIT}; last: {outcome.message}"
            )
            end_task(draft, task, Phase.FAILED, Reason.DISRUPTION_LIMIT, shorten(message))
            return
        delay = disruption_delay(draft.run.uid, task.key, task.disruptions)
        if delay:
            _delay(draft, task, draft.now + delay, outcome.message)
        else:
            start_attempt(draft, task)
        return
    limit = draft.plan.steps[task.key.step].retry_limit
    if outcome.retryable and task.retries < limit:
        task = replace(task, retries=task.retries + 1)
        retry_at = draft.now + backoff(draft.run.uid, task.key, task.retries)
        draft.event(
            "task.retrying", task=task, retry=task.retries, limit=limit, retryAt=retry_at.isoformat(), **facts
        )
        _delay(draft, task, retry_at, outcome.message)
        return
    end_task(draft, task, Phase.FAILED, outcome.reason, outcome.message)


def _delay(draft: Draft, task: TaskRecord, retry_at: datetime, message: str) -> None:
    draft.put_task(
        replace(task, phase=Phase.PENDING, reason=Reason.BACKOFF, message=message, retry_at=retry_at)
    )


def end_task(
    draft: Draft, task: TaskRecord, phase: Phase, reason: Reason | None = None, message: str = ""
) -> None:
    task = replace(task, phase=phase, reason=reason, message=message, retry_at=None, finished_at=draft.now)
    draft.put_task(task)
    draft.event(
        f"task.{phase.value.lower()}",
        task=task,
        reason=reason,
        message=message or None,
        exitCode=task.exit_code if phase is Phase.FAILED else None,
    )


def start_attempt(draft: Draft, task: TaskRecord) -> None:
    """Open the task's next attempt; its pod is made once this is committed."""
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
