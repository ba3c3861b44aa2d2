"""The rules of echo steps: a task waits for the signal of its name, until its step's timeout."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.task_end import succeed_task
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.engine.timer_step import TimerStep
from perdure.domain.expressions.templating import render
from perdure.domain.payloads import payload_of, value_of
from perdure.domain.records import Signal, TaskRecord


class EchoRules(TimerStep):
    """A wait that its signal ends with success; the payload is the output."""

    field: ClassVar[str] = "echo"

    def prepare(
        self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, scope: TaskScope
    ) -> TaskRecord:
        task = super().prepare(changes, step, task, scope)
        return replace(task, input=payload_of(render(step.block["signal"], scope.names, "echo.signal")))

    def receive(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, signal: Signal) -> None:
        if signal.name == value_of(task.input):
            changes.consume(signal)
            succeed_task(changes, step, task, payload_of(signal.payload))
