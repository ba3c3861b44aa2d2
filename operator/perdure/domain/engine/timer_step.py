"""The defaults of steps that only wait, for a time or for a signal: they have no attempts and no objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from perdure.api.status import timestamp
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import Outcome
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_waiting import Waiting
from perdure.domain.engine.step_kind import ClusterView, Counts
from perdure.domain.engine.task_end import end_task
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.events import EventType
from perdure.domain.expressions.templating import compile_value
from perdure.domain.phases import Phase, Reason, Trigger
from perdure.domain.records import AttemptRecord, Signal, TaskRecord


class TimerStep:
    """Rules of a task that runs as Running/Waiting until `retry_at` or a signal, whichever is first.

    `receive` decides what a signal does; without it every signal stays in the inbox. A task that waits for
    no time has no `retry_at`.
    """

    counts: ClassVar[Counts] = Counts(parallelism=False, slot=False, objects=False)
    default_parallelism: ClassVar[int | None] = None

    def compile(self, block: Mapping[str, Any]) -> Mapping[str, Any]:
        compiled: Mapping[str, Any] = compile_value(block)
        return compiled

    def until(self, changes: ChangeSet, step: PlannedStep, scope: TaskScope) -> datetime | None:
        """When a wait that starts now ends by itself: by default after the step's `timeout`.

        Raises ExpressionError.
        """
        return None if step.timeout is None else changes.now + step.timeout

    def receive(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, signal: Signal) -> None:
        """Act on a signal, and consume it; what is not consumed is kept for a later decision."""

    def due(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        """End a wait whose time has come: by default its step's `timeout` is over."""
        limit = "its timeout" if step.timeout is None else f"{step.timeout.total_seconds():g}s"
        end_task(changes, task, Phase.FAILED, Reason.TIMEOUT, f"waited longer than {limit}")

    def remaining(self, step: PlannedStep, until: datetime, lost: timedelta) -> datetime:
        """When a wait ends that was paused for `lost`: by default as much is left as before."""
        return until + lost

    def prepare(
        self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, scope: TaskScope
    ) -> TaskRecord:
        return replace(task, retry_at=self.until(changes, step, scope))

    def start(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        """Start the wait. A wait that is over at once reports its end only, not that it started."""
        until = task.retry_at
        task = replace(task, phase=Phase.RUNNING, reason=Reason.WAITING, started_at=changes.now)
        changes.put_task(task, Trigger.START)
        if until is not None and until <= changes.now:
            self.due(changes, step, task)
        else:
            self.observe(changes, step, task, overdue=False)
        current = changes.task(task.key)
        if current is not None and not current.phase.terminal:
            at = None if until is None else until.isoformat()
            changes.event(EventType.TASK_STARTED, task=task, until=at)

    def observe(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, *, overdue: bool) -> None:
        """Give the task its signals one after the other, until one of them ends it."""
        for signal in changes.signals(task.key):
            current = changes.task(task.key)
            if current is None or current.phase.terminal:
                return
            self.receive(changes, step, current, signal)

    def started_at(self, changes: ChangeSet, attempt: AttemptRecord) -> datetime | None:
        return None

    def outcome(self, changes: ChangeSet, step: PlannedStep, attempt: AttemptRecord) -> Outcome | None:
        return None

    def pause(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        changes.put_task(replace(task, phase=Phase.PAUSED, reason=Reason.PAUSED), Trigger.PAUSE)

    def resume(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, lost: timedelta) -> None:
        until = None if task.retry_at is None else self.remaining(step, task.retry_at, lost)
        task = replace(task, phase=Phase.RUNNING, reason=Reason.WAITING, retry_at=until)
        changes.put_task(task, Trigger.RESUME)

    def waiting(
        self, task: TaskRecord, attempt: AttemptRecord | None, cluster: ClusterView
    ) -> Waiting | None:
        until = "for a signal" if task.retry_at is None else f"until {timestamp(task.retry_at)}"
        return Reason.WAITING, until

    def activity(self, attempt: AttemptRecord | None, cluster: ClusterView) -> str:
        return ""
