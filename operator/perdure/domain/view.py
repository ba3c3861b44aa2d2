"""A live run in memory, with the counts that keep a decision's cost independent of the run's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from perdure.domain.phases import Phase
from perdure.domain.plan import Plan
from perdure.domain.records import (
    AttemptRecord,
    Commit,
    Committed,
    RunRecord,
    RunState,
    StepRecord,
    TaskKey,
    TaskRecord,
)


@dataclass(slots=True)
class Evaluated:
    """What was evaluated for steps whose dependencies have ended, and so cannot change any more."""

    #: What a step's expressions see of the steps that it depends on.
    step_values: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The items of `forEach` steps.
    items: dict[str, list[Any]] = field(default_factory=dict)


class RunView:
    """What the ledger holds of one run, indexed. Changed only after the ledger has committed the change."""

    def __init__(self, plan: Plan, state: RunState) -> None:
        self.plan = plan
        self.run: RunRecord = state.run
        self.steps: dict[str, StepRecord] = dict(state.steps)
        self.tasks: dict[TaskKey, TaskRecord] = {}
        self.attempts: dict[TaskKey, AttemptRecord] = dict(state.attempts)
        #: Tasks by phase, for each step.
        self.counts: dict[str, Counter[Phase]] = {}
        #: Tasks that have not ended, and those of them that wait for a retry's time.
        self.live: set[TaskKey] = set()
        self.delayed: set[TaskKey] = set()
        self.evaluated = Evaluated()
        for task in state.tasks.values():
            self._put(task)

    def apply(self, commit: Commit, committed: Committed) -> None:
        """Take over what the ledger has committed."""
        self.run = replace(commit.run, version=committed.version, last_sequence=committed.last_sequence)
        for step in commit.steps:
            self.steps[step.name] = step
        for task in commit.tasks:
            self._put(task)
        for attempt in commit.attempts:
            self.attempts[attempt.key] = attempt

    def note_version(self, version: int) -> None:
        """Take over that the ledger has given the run this version, for what the next decision will see."""
        self.run = replace(self.run, version=version)

    def note_pod(self, key: TaskKey, pod_uid: str) -> None:
        """Take over that the ledger knows the pod of a task's newest attempt."""
        self.attempts[key] = replace(self.attempts[key], pod_uid=pod_uid)

    def tasks_of(self, step: str) -> Iterator[TaskRecord]:
        """The step's tasks that have been made, in order of their index."""
        record = self.steps.get(step)
        if record is None:
            return
        for key in _keys(step, record):
            if key in self.tasks:
                yield self.tasks[key]

    def _put(self, task: TaskRecord) -> None:
        before = self.tasks.get(task.key)
        counts = self.counts.setdefault(task.key.step, Counter())
        if before is not None:
            counts[before.phase] -= 1
        counts[task.phase] += 1
        self.tasks[task.key] = task
        (self.live.discard if task.phase.terminal else self.live.add)(task.key)
        (self.delayed.discard if task.retry_at is None else self.delayed.add)(task.key)


def _keys(step: str, record: StepRecord) -> Iterator[TaskKey]:
    if record.for_each:
        for index in range(record.total):
            yield TaskKey(step, index)
    else:
        yield TaskKey(step)
