"""A decision in the making: the run as it is, overlaid by what is about to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from perdure.domain.phases import Phase, check_transition
from perdure.domain.plan import Plan, PlannedStep
from perdure.domain.records import (
    WORKFLOW,
    AttemptRecord,
    Commit,
    EventDraft,
    RunRecord,
    StepRecord,
    TaskKey,
    TaskRecord,
)
from perdure.domain.view import Evaluated, RunView


class Draft:
    """Reads fall through to the view; writes stay here until they become a Commit."""

    def __init__(self, view: RunView, now: datetime) -> None:
        self.view = view
        self.now = now
        self.run: RunRecord = view.run
        self._steps: dict[str, StepRecord] = {}
        self._tasks: dict[TaskKey, TaskRecord] = {}
        #: By number too: one decision may close an attempt and open the next, in this order.
        self._attempts: dict[tuple[TaskKey, int], AttemptRecord] = {}
        self._newest: dict[TaskKey, AttemptRecord] = {}
        self._events: list[EventDraft] = []
        self._counts: dict[str, Counter[Phase]] = {}
        self._evaluated = Evaluated()
        self.live = len(view.live)
        self.failing = any(counts[Phase.FAILED] for counts in view.counts.values()) or any(
            step.phase is Phase.FAILED for step in view.steps.values()
        )

    @property
    def plan(self) -> Plan:
        return self.view.plan

    def step(self, name: str) -> StepRecord | None:
        return self._steps.get(name) or self.view.steps.get(name)

    def task(self, key: TaskKey) -> TaskRecord | None:
        return self._tasks.get(key) or self.view.tasks.get(key)

    def attempt(self, key: TaskKey) -> AttemptRecord | None:
        return self._newest.get(key) or self.view.attempts.get(key)

    def open_attempt(self, key: TaskKey) -> AttemptRecord | None:
        """The task's newest attempt, if it is open."""
        attempt = self.attempt(key)
        return None if attempt is None or attempt.closed_at is not None else attempt

    def counts(self, step: str) -> Counter[Phase]:
        """The step's tasks by phase. Not to be changed by the caller."""
        return self._counts.get(step) or self.view.counts.get(step) or Counter()

    def items_of(self, step: str) -> list[Any] | None:
        """The items of a step, if they have been evaluated."""
        items = self.view.evaluated.items.get(step)
        return self._evaluated.items.get(step) if items is None else items

    def step_values_of(self, step: str) -> Mapping[str, Any] | None:
        """What a step's expressions see of its dependencies, if it has been put together."""
        values = self.view.evaluated.step_values.get(step)
        return self._evaluated.step_values.get(step) if values is None else values

    def remember(self, step: PlannedStep) -> Evaluated:
        """Where to keep what was evaluated for a step.

        That is the view only if all its dependencies have ended there: ends that this decision brings about
        may never be committed, and the next decision may see others.
        """
        before = (self.view.steps.get(name) for name in step.depends_on)
        settled = all(record is not None and record.phase.terminal for record in before)
        return self.view.evaluated if settled else self._evaluated

    def put_run(self, run: RunRecord) -> None:
        check_transition(self.run.phase, run.phase)
        self.run = run

    def put_step(self, step: StepRecord) -> None:
        before = self.step(step.name)
        check_transition(Phase.PENDING if before is None else before.phase, step.phase)
        self._steps[step.name] = step
        self.failing = self.failing or step.phase is Phase.FAILED

    def put_task(self, task: TaskRecord) -> None:
        before = self.task(task.key)
        check_transition(Phase.PENDING if before is None else before.phase, task.phase)
        counts = self._counts.get(task.key.step)
        if counts is None:
            counts = self._counts[task.key.step] = Counter(self.view.counts.get(task.key.step, Counter()))
        if before is not None:
            counts[before.phase] -= 1
            self.live -= not before.phase.terminal
        counts[task.phase] += 1
        self.live += not task.phase.terminal
        self.failing = self.failing or task.phase is Phase.FAILED
        self._tasks[task.key] = task

    def put_attempt(self, attempt: AttemptRecord) -> None:
        self._attempts[attempt.key, attempt.number] = attempt
        self._newest[attempt.key] = attempt

    def event(self, type: str, *, task: TaskRecord | None = None, **data: Any) -> None:
        """Say that something happened. A standalone AgentTask has no events of a workflow."""
        if self.run.kind != WORKFLOW and type.startswith("workflow."):
            return
        facts = {name: value for name, value in data.items() if value is not None}
        if task is not None and task.key.step:
            facts = {
                "step": task.key.step,
                **({"index": task.key.index} if task.key.index >= 0 else {}),
                **facts,
            }
        self._events.append(
            EventDraft(
                type=type,
                time=self.now,
                data=facts,
                task=None if task is None else task.name,
                attempt=None if task is None else (task.attempt or None),
            )
        )

    def delayed(self) -> Iterator[TaskRecord]:
        """Tasks that wait for the time of their next attempt."""
        for key in self.view.delayed | self._tasks.keys():
            task = self.task(key)
            if task is not None and task.retry_at is not None:
                yield task

    def commit(self) -> Commit | None:
        """What has changed; None if nothing has."""
        if self.run == self.view.run and not (self._steps or self._tasks or self._attempts or self._events):
            return None
        return Commit(
            run=self.run,
            steps=tuple(self._steps.values()),
            tasks=tuple(self._tasks.values()),
            attempts=tuple(self._attempts.values()),
            events=tuple(self._events),
        )

    def replace_run(self, **changes: Any) -> None:
        self.put_run(replace(self.run, **changes))
