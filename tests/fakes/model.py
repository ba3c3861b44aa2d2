"""A run as it was written, and the true ends of its pods: what guarantees are checked against."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from perdure.domain.engine.plan import Plan, compile_plan
from perdure.domain.payloads import value_of
from perdure.domain.records import AttemptRecord, Commit, Report, RunRecord, Signal, TaskKey, TaskRecord
from tests.support.echo import WITH_ECHO


@dataclass(slots=True, eq=False)
class PodTruth:
    """The true history of one pod, which no part of the product knows."""

    pod: str
    uid: str
    task: str
    attempt: int
    #: It was ended from outside: deleted, evicted, or lost with its node.
    outside: bool = False
    #: The code with which its agent ended by itself; None if it never did.
    code: int | None = None
    started_at: datetime | None = None
    #: The agent came to the end of its work.
    worked: bool = False


@dataclass(slots=True, eq=False)
class RunModel:
    """One run as it was written."""

    run: RunRecord
    plan: Plan
    tasks: dict[TaskKey, TaskRecord] = field(default_factory=dict)
    attempts: dict[TaskKey, list[AttemptRecord]] = field(default_factory=dict)
    reports: dict[tuple[TaskKey, int], Report] = field(default_factory=dict)
    #: The newest moment at which an attempt gave a sign of life.
    signs: dict[tuple[TaskKey, int], datetime] = field(default_factory=dict)
    #: How far each task's work was saved, and which of its parts.
    saved: Counter[TaskKey] = field(default_factory=Counter)
    parts: set[tuple[TaskKey, int]] = field(default_factory=set)
    #: By id, in the order in which they were acknowledged; and the ids of those that a decision consumed.
    signals: dict[str, Signal] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    #: Numbers of its last event, and of the last one that was published.
    sequence: int = 0
    published: int = 0

    def open(self, key: TaskKey) -> AttemptRecord | None:
        attempts = self.attempts.get(key)
        return attempts[-1] if attempts and attempts[-1].closed_at is None else None

    def signal_for(self, task: TaskRecord) -> Signal | None:
        """The first signal that fits an echo task, consumed or not; None for a task of any other kind."""
        if self.plan.steps[task.key.step].kind.field != "echo":
            return None
        fitting = (
            signal
            for signal in self.signals.values()
            if signal.key == task.key and signal.name == value_of(task.input)
        )
        return next(fitting, None)

    def copy(self) -> RunModel:
        """The model as it is now, which later writes do not change."""
        return replace(
            self,
            tasks=dict(self.tasks),
            attempts={key: list(attempts) for key, attempts in self.attempts.items()},
            reports=dict(self.reports),
            signs=dict(self.signs),
            saved=Counter(self.saved),
            parts=set(self.parts),
            signals=dict(self.signals),
            consumed=set(self.consumed),
        )

    @staticmethod
    def of(run: RunRecord) -> RunModel:
        """The model of a new run."""
        return RunModel(run, compile_plan(run.spec or _NOTHING, WITH_ECHO))


def summary(commit: Commit) -> str:
    """A commit in one line, for people."""
    tasks = [
        f"{task.name} {task.phase} {task.reason or ''} r{task.retries} d{task.disruptions}"
        for task in commit.tasks
    ]
    attempts = [
        f"{attempt.pod_name} {'open' if attempt.closed_at is None else attempt.reason or 'closed'}"
        f"{' stopping' if attempt.stopping else ''}"
        for attempt in commit.attempts
    ]
    run = commit.run
    text = f"{run.name}@{run.version} {run.phase} {run.reason or ''}"
    return f"{text} | {'; '.join(tasks)} | {'; '.join(attempts)}"


#: A refused run has no plan.
_NOTHING: Final[dict[str, Any]] = {
    "inputs": {},
    "parallelism": None,
    "retention": {"ttlAfterFinished": "168h"},
    "steps": [],
    "outputs": {},
}
