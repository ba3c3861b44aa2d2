"""The rules of a `wait` step: it succeeds after a duration, or at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from perdure.api.base import parse_duration
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.task_end import end_task
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.engine.timer_step import TimerStep
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.templating import render
from perdure.domain.phases import Phase
from perdure.domain.records import TaskRecord


class WaitRules(TimerStep):
    """A timer whose end is success."""

    field: ClassVar[str] = "wait"

    def until(self, changes: ChangeSet, step: PlannedStep, scope: TaskScope) -> datetime | None:
        names = scope.names
        if "duration" in step.block:
            value = render(step.block["duration"], names, "wait.duration")
            try:
                return changes.now + timedelta(seconds=parse_duration(value))
            except (ValueError, TypeError):
                raise ExpressionError(
                    f"wait.duration: {value!r} is not a duration; give one like 10s or 1h30m"
                ) from None
        value = render(step.block["until"], names, "wait.until")
        try:
            until = datetime.fromisoformat(value)
            if until.tzinfo is not None:
                return until.astimezone(UTC)
        except (ValueError, TypeError, OverflowError):
            pass
        raise ExpressionError(f"wait.until: {value!r} is not a time; give one like 2030-01-31T08:00:00Z")

    def due(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        end_task(changes, task, Phase.SUCCEEDED)

    def remaining(self, step: PlannedStep, until: datetime, lost: timedelta) -> datetime:
        # A duration has as much left as before; a moment of the calendar does not move.
        return until + lost if "duration" in step.block else until
