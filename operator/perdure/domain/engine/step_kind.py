"""The rules of a step kind, as the engine calls them: compilation, start, observation, pause, status.

A kind of step is one object (`perdure.steps`), which a compiled plan refers to. The engine asks that object
instead of comparing names, so that a new kind changes no file here. `TimerStep` and `AttemptStep` hold the
defaults of the two families: steps that only wait, and steps that are tried.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.engine.pod_waiting import Waiting

if TYPE_CHECKING:
    # A plan refers to kinds, and the rules of a kind to plans.
    from perdure.domain.engine.changeset import ChangeSet
    from perdure.domain.engine.outcome import Outcome
    from perdure.domain.engine.plan import PlannedStep
    from perdure.domain.engine.task_scope import TaskScope
    from perdure.domain.records import AttemptRecord, TaskKey, TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the tasks of a step kind count for."""

    #: Unfinished tasks count against the run's `parallelism`, and a run with one that runs is not waiting.
    parallelism: bool
    #: Open attempts take a slot of the limits that runs share.
    slot: bool
    #: Every task that was started has an AgentTask object in the cluster, whose status is written.
    objects: bool


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Objects of one run as last observed, for statuses. No decision depends on them."""

    pods: Mapping[str, PodFacts] = field(default_factory=dict)
    #: The statuses of child Workflows, by name.
    children: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The newest warning Events about objects whose agents have not started, with the attempt's number.
    warnings: Mapping[TaskKey, tuple[int, str]] = field(default_factory=dict)

    #: Tasks whose agents should have given a sign of life by now, and have never reached the gateway.
    unheard: Container[TaskKey] = ()

    def warning(self, attempt: AttemptRecord) -> str | None:
        """The newest warning Event about the object of an attempt; None if there is none."""
        number, text = self.warnings.get(attempt.key, (0, ""))
        return text if number == attempt.number else None


class StepRules(Protocol):
    """The engine's side of a step kind. Stateless: one object serves all runs."""

    #: The key of the kind's block in a manifest's step.
    field: ClassVar[str]
    counts: ClassVar[Counts]
    #: Unfinished tasks of a step that says nothing about `parallelism`; None for no limit.
    default_parallelism: ClassVar[int | None]

    def compile(self, block: Mapping[str, Any]) -> Mapping[str, Any]:
        """The block of a snapshot with its expressions compiled."""
        ...

    def prepare(
        self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, scope: TaskScope
    ) -> TaskRecord:
        """The new task with what its expressions give. Raises ExpressionError, before anything is started."""
        ...

    def start(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        """Start a prepared task for which there is no cached result."""
        ...

    def due(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        """Continue a task whose `retry_at` has come, or that has no open attempt and waits for no time."""
        ...

    def observe(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, *, overdue: bool) -> None:
        """Record what was observed of an unfinished task. `overdue`: time alone may end its attempt."""
        ...

    def started_at(self, changes: ChangeSet, attempt: AttemptRecord) -> datetime | None:
        """When an open attempt started, as near as was observed; None if it has not."""
        ...

    def outcome(self, changes: ChangeSet, step: PlannedStep, attempt: AttemptRecord) -> Outcome | None:
        """How an open attempt that reported nothing ended; None if it goes on."""
        ...

    def pause(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        """Hold an unfinished task of a run that is being paused."""
        ...

    def resume(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, lost: timedelta) -> None:
        """Continue an unfinished task of a run whose pause ends after `lost`."""
        ...

    def waiting(
        self, task: TaskRecord, attempt: AttemptRecord | None, cluster: ClusterView
    ) -> Waiting | None:
        """Why an unfinished task of a run that is not paused does not run; None if it runs.

        `attempt` is the task's open attempt.
        """
        ...

    def activity(self, attempt: AttemptRecord | None, cluster: ClusterView) -> str:
        """What a single running task does, in a few words; empty if there is nothing to add."""
        ...
