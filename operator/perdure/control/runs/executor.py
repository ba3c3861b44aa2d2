"""What step kinds do in the cluster: an executor creates, observes and deletes the objects of attempts.

The reconciler, the observer, the actuator and the cleanup ask the executor of a step's kind and know no
kind. A kind without objects in the cluster has no executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.runs.deletion import Deletion
from perdure.control.runs.payloads import PayloadReader, RunEvaluator
from perdure.domain.admission.step_kind import StepAdmission
from perdure.domain.engine.observed import ChildRun
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.engine.step_kind import StepRules
from perdure.domain.records import AttemptRecord, TaskKey, TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorContext:
    """What an executor is built from: the cluster as observed and as asked, the ledger, the gateway."""

    store: Store
    kube: KubePort
    ledger: LedgerPort
    evaluator: RunEvaluator
    payloads: PayloadReader
    clock: Callable[[], datetime]
    gateway_url: str
    #: See LoopOptions.
    gateway_ca: Callable[[], str | None]
    #: The audience of the tokens by which agents authenticate at the gateway.
    audience: str


@dataclass(slots=True)
class Findings:
    """What executors observed in one pass, by task."""

    pods: dict[TaskKey, PodFacts] = field(default_factory=dict)
    children: dict[TaskKey, ChildRun] = field(default_factory=dict)
    #: Tasks whose object was created, and of which the API server itself says that it was deleted.
    gone: set[TaskKey] = field(default_factory=set)


class Executor(Protocol):
    """The objects of one step kind. One for all runs; every method may be repeated."""

    def noun(self, step: PlannedStep) -> str:
        """What people call the object of an attempt, for messages."""
        ...

    async def prune(self, live: LiveRun) -> None:
        """Delete objects whose attempt was closed before they were recorded. Raises ApiError."""
        ...

    def is_pending(self, live: LiveRun, attempt: AttemptRecord) -> bool:
        """True if the attempt's object is known to exist, and its uid is still to come."""
        ...

    async def ensure(self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord) -> str | None:
        """The uid of the attempt's object, created if need be; None while the uid is still to come.

        Raises NameConflict, StillLeaving, InvalidObject and ApiError.
        """
        ...

    async def stop(self, live: LiveRun, attempt: AttemptRecord) -> bool:
        """Ask an attempt that is stopping to leave, within its grace. Raises ApiError.

        Returns whether to observe the run again soon: there is no object whose end an event would report.
        """
        ...

    async def find(
        self,
        live: LiveRun,
        attempts: Sequence[AttemptRecord],
        now: datetime,
        *,
        overdue: set[TaskKey],
        findings: Findings,
    ) -> None:
        """Observe open attempts of the kind: those given have changed, time alone may end `overdue` ones.

        Raises ApiError and LedgerError.
        """
        ...

    def leftover(self, live: LiveRun, task: TaskRecord) -> Deletion | None:
        """The object that an ended task still has."""
        ...

    def is_idle(self, live: LiveRun, key: TaskKey, leftover: Deletion) -> bool:
        """True if nothing of an ended task runs, so that its object may be deleted."""
        ...

    def follower(self, live: LiveRun, attempt: AttemptRecord) -> RunKey | None:
        """The run that is to be reconciled because an attempt was closed."""
        ...


class ActingKind(StepAdmission, StepRules, Protocol):
    """A step kind as the control loop knows it: admission, rules, and what acts for it in the cluster."""

    def executor(self, context: ExecutorContext) -> Executor | None:
        """The kind's executor; None if the kind has no objects."""
        ...


class Executors:
    """The executors of a registry of step kinds, found by step."""

    def __init__(self, kinds: Iterable[ActingKind], context: ExecutorContext) -> None:
        #: The registry itself, by which plans are compiled.
        self.kinds = tuple(kinds)
        built = {kind.field: kind.executor(context) for kind in self.kinds}
        self._by_field = {name: executor for name, executor in built.items() if executor is not None}

    def of(self, live: LiveRun, key: TaskKey) -> Executor | None:
        """The executor of a task's step; None if the step has no objects."""
        return self._by_field.get(live.view.plan.steps[key.step].kind.field)

    def of_attempt(self, live: LiveRun, key: TaskKey) -> Executor:
        """The executor of a task that has attempts."""
        return self._by_field[live.view.plan.steps[key.step].kind.field]

    def __iter__(self) -> Iterator[Executor]:
        return iter(self._by_field.values())

    def grouped(
        self, live: LiveRun, attempts: Iterable[AttemptRecord]
    ) -> Iterator[tuple[Executor, list[AttemptRecord]]]:
        """Every executor with those of the attempts that are of its kind, in the order of the registry."""
        groups: dict[str, list[AttemptRecord]] = {name: [] for name in self._by_field}
        for attempt in attempts:
            name = live.view.plan.steps[attempt.key.step].kind.field
            if name in groups:
                groups[name].append(attempt)
        for name, executor in self._by_field.items():
            yield executor, groups[name]
