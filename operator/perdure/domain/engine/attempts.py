"""How attempts go: their start, what was observed of them, and how they end."""

from __future__ import annotations

from dataclasses import replace

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.deadlines import overdue_outcome
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.outcome import EndKind, Outcome, outcome_of_report
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.engine.retry_decision import (
    after_disruption,
    after_failure,
    allow_start,
    judge_failure,
)
from perdure.domain.engine.task_end import close_attempt, succeed_task
from perdure.domain.events import EventType
from perdure.domain.names import pod_name
from perdure.domain.phases import Phase, Reason, Trigger
from perdure.domain.records import AttemptRecord, TaskRecord

#: What a task says that waits for a slot.
LIMITED = "the limit of tasks that may run at once in the namespace or in all is used up"


def observe_attempt(changes: ChangeSet, step: PlannedStep, task: TaskRecord, *, overdue: bool) -> None:
    """Record what was observed of a task's open attempt. The agent's own report comes before its pod.

    `overdue`: the attempt's time was over by what was known before. An attempt whose start is observed only
    now has to be observed again first: its signs of life have not been read yet.
    """
    attempt = changes.open_attempt(task.key)
    if attempt is None:
        return
    observed = changes.observed
    attempt = _with_report(attempt, observed)
    task, attempt = note_start(changes, step, task, attempt)
    outcome = _outcome(changes, step, attempt)
    if outcome is None and overdue and attempt.stopping is None and not changes.paused:
        outcome = overdue_outcome(step, attempt, pod_of(attempt, observed), observed, changes.observed_at)
    if attempt.stopping is not None:
        _observe_stopping(changes, step, task, attempt, outcome)
    elif outcome is not None:
        end_attempt(changes, step, task, attempt, outcome)


def note_start(
    changes: ChangeSet, step: PlannedStep, task: TaskRecord, attempt: AttemptRecord
) -> tuple[TaskRecord, AttemptRecord]:
    """Record that an open attempt has started, unless that is known. Returns both records as changed."""
    if attempt.started_at is not None:
        return task, attempt
    started_at = step.kind.started_at(changes, attempt)
    if started_at is None:
        return task, attempt
    attempt = replace(attempt, started_at=started_at)
    task = replace(
        task, phase=Phase.RUNNING, reason=None, message="", started_at=task.started_at or changes.now
    )
    changes.put_attempt(attempt)
    changes.put_task(task, Trigger.START)
    changes.event(EventType.TASK_STARTED, task=task, pod=attempt.pod_name)
    return task, attempt


def _with_report(attempt: AttemptRecord, observed: Observed) -> AttemptRecord:
    number, report = observed.reports.get(attempt.key, (0, None))
    return replace(attempt, report=report) if number == attempt.number else attempt


def _outcome(changes: ChangeSet, step: PlannedStep, attempt: AttemptRecord) -> Outcome | None:
    """How an attempt ended; None if it goes on."""
    if attempt.report is not None:
        return outcome_of_report(attempt.report)
    return step.kind.outcome(changes, step, attempt)


def pod_of(attempt: AttemptRecord, observed: Observed) -> PodFacts | None:
    """What was observed of the attempt's own pod."""
    pod = observed.pods.get(attempt.key)
    return pod if pod is not None and pod.attempt == attempt.number else None


def _observe_stopping(
    changes: ChangeSet, step: PlannedStep, task: TaskRecord, attempt: AttemptRecord, outcome: Outcome | None
) -> None:
    """The end of an attempt that was asked to leave for a pause.

    What the agent finished before it left counts; any other end is the answer to our own request, and
    spends neither retries nor disruptions.
    """
    if outcome is None:
        return
    if outcome.kind is EndKind.SUCCEEDED or attempt.report is not None:
        end_attempt(changes, step, task, attempt, outcome)
        return
    close_attempt(changes, attempt, Phase.CANCELLED, attempt.stopping, "left for a pause", outcome.exit_code)
    allow_start(changes, task)


def end_attempt(
    changes: ChangeSet, step: PlannedStep, task: TaskRecord, attempt: AttemptRecord, outcome: Outcome
) -> None:
    """Close an attempt, and end its task or decide about another attempt.

    Raises EvaluationPending before the attempt is closed.
    """
    succeeded = outcome.kind is EndKind.SUCCEEDED
    again = judge_failure(changes, step, task, outcome) if outcome.kind is EndKind.FAILED else None
    close_attempt(
        changes,
        attempt,
        Phase.SUCCEEDED if succeeded else Phase.FAILED,
        outcome.reason,
        outcome.message,
        outcome.exit_code,
    )
    if succeeded:
        succeed_task(changes, step, task, outcome.output, exit_code=outcome.exit_code)
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
        after_disruption(changes, step, task, outcome)
    elif again is not None:
        after_failure(changes, step, task, outcome, again=again)


def start_attempt(changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
    """Open the task's next attempt, if there is a slot; its object is created after the commit."""
    if step.kind.counts.slot and changes.slots is not None:
        if changes.slots <= 0:
            changes.wants += 1
            if task.reason is not Reason.LIMIT:
                reason, message = Reason.LIMIT, LIMITED
                task = replace(task, phase=Phase.PENDING, reason=reason, message=message, retry_at=None)
                changes.put_task(task, Trigger.WAIT)
            return
        changes.slots -= 1
    number = task.attempt + 1
    task = replace(
        task, phase=Phase.PENDING, reason=Reason.STARTING, message="", attempt=number, retry_at=None
    )
    changes.put_task(task, Trigger.WAIT)
    changes.put_attempt(
        AttemptRecord(
            key=task.key,
            number=number,
            pod_name=pod_name(task.name, changes.run.uid, task.key, number),
            created_at=changes.now,
        )
    )
    changes.event(EventType.TASK_SCHEDULED, task=task)
