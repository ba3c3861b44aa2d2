"""The defaults of steps that are tried: each task has attempts, one open at a time, and budgets for more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from perdure.api.status import timestamp
from perdure.domain.engine.attempts import observe_attempt, start_attempt
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import EndKind, Outcome
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_waiting import Waiting
from perdure.domain.engine.retry_decision import allow_start
from perdure.domain.engine.step_kind import ClusterView
from perdure.domain.engine.task_end import close_attempt
from perdure.domain.expressions.templating import compile_value
from perdure.domain.phases import Phase, Reason, Trigger
from perdure.domain.records import AttemptRecord, TaskRecord


class AttemptStep:
    """Rules of a task that is Pending until its attempt starts, and Running until that ends.

    A kind adds `field`, `counts`, `prepare`, `gone` and what it observes of its attempts.
    """

    default_parallelism: ClassVar[int | None] = None

    def gone(self, attempt: AttemptRecord) -> Outcome:
        """The end of an attempt whose object was deleted, with nothing reported."""
        raise NotImplementedError

    def attempt_waiting(self, attempt: AttemptRecord, cluster: ClusterView) -> Waiting | None:
        """Why an attempt has not started, as far as its object says."""
        raise NotImplementedError

    def compile(self, block: Mapping[str, Any]) -> Mapping[str, Any]:
        compiled: Mapping[str, Any] = compile_value(block)
        return compiled

    def start(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        start_attempt(changes, step, task)

    def due(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        start_attempt(changes, step, task)

    def observe(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, *, overdue: bool) -> None:
        observe_attempt(changes, step, task, overdue=overdue)

    def started_at(self, changes: ChangeSet, attempt: AttemptRecord) -> datetime | None:
        return changes.now if attempt.report is not None else None

    def outcome(self, changes: ChangeSet, step: PlannedStep, attempt: AttemptRecord) -> Outcome | None:
        observed = changes.observed
        if attempt.key in observed.gone:
            return self.gone(attempt)
        refusal = observed.refusals.get(attempt.key)
        if refusal is None or refusal.attempt != attempt.number:
            return None
        return Outcome(kind=EndKind.FAILED, reason=refusal.reason, message=refusal.message, retryable=False)

    def pause(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        """Ask a running attempt to leave; without one, or before its object is recorded, hold the task."""
        attempt = changes.open_attempt(task.key)
        if attempt is None:
            changes.put_task(replace(task, phase=Phase.PAUSED, reason=Reason.PAUSED), Trigger.PAUSE)
        elif attempt.pod_uid is None:
            # The gateway has not admitted its pod, if there is one: nothing could have been saved.
            close_attempt(changes, attempt, Phase.CANCELLED, Reason.PAUSED, "not started before a pause")
            allow_start(changes, task)
        else:
            changes.put_attempt(replace(attempt, stopping=Reason.PAUSED))

    def resume(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, lost: timedelta) -> None:
        if task.phase is not Phase.PAUSED:
            return
        if task.retry_at is None:
            allow_start(changes, task)
        else:
            at = task.retry_at + lost
            task = replace(task, phase=Phase.PENDING, reason=Reason.BACKOFF, retry_at=at)
            changes.put_task(task, Trigger.WAIT)

    def waiting(
        self, task: TaskRecord, attempt: AttemptRecord | None, cluster: ClusterView
    ) -> Waiting | None:
        if task.retry_at is not None:
            text = f"attempt {task.attempt + 1} starts at {timestamp(task.retry_at)}"
            return Reason.BACKOFF, f"{text}: {task.message}" if task.message else text
        if task.phase is Phase.RUNNING:
            return None
        if attempt is None:
            return task.reason or Reason.STARTING, task.message
        return self.attempt_waiting(attempt, cluster)

    def activity(self, attempt: AttemptRecord | None, cluster: ClusterView) -> str:
        return ""
