"""A live run as the control loop holds it: what the ledger has of it, and what is known of the cluster.

Everything here can be lost and found again: the view from the ledger, the rest by one full pass over all
tasks. Each part is written by one side of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from perdure.control.cluster_cache.run_key import RunKey
from perdure.domain.engine.lazy_heap import LazyHeap
from perdure.domain.engine.observed import Refusal
from perdure.domain.engine.view import RunView
from perdure.domain.expressions.evaluation import Answer
from perdure.domain.phases import Reason
from perdure.domain.records import AttemptRecord, LedgerError, LedgerUnavailable, Signal, TaskKey, Vitals


class CreatedJob(NamedTuple):
    """A Job that is known to have existed for an attempt, and whose pod has not been observed."""

    attempt: int
    name: str
    uid: str


#: Creates of one run's objects that are under way at once.
CREATIONS = 16


class Creation(NamedTuple):
    """The create of an attempt's object, under way."""

    attempt: int
    #: Ends with the uid of the object, or None while the uid is still to come.
    task: asyncio.Task[str | None]
    #: The object was known to exist before, and only its uid was missing.
    was_pending: bool


class CreateRetry(NamedTuple):
    """When an object that was not created is created again."""

    attempt: int
    #: Creates so far.
    tries: int
    at: datetime


@dataclass(slots=True)
class Agenda:
    """What the next pass has to do. Written by the reconciler; the observer clears what it has done."""

    #: The view differs from the ledger, or may: the run is read from the ledger before anything else.
    stale: bool = False
    #: The outcome of a commit is unknown: the commit may take effect even after the run was read again.
    unsettled: bool = False
    #: Observe every live task, not only those that changed.
    full_pass: bool = True
    #: Ask the ledger what agents and others wrote.
    ask_ledger: bool = True
    #: Ask the ledger how child Workflows stand.
    ask_children: bool = True
    #: When to create blocked objects again; None if none is blocked.
    retry_blocked_at: datetime | None = None
    #: Attempts that the last decision would have started, had there been slots for them.
    unmet_slots: int = 0

    def request_full_pass(self) -> None:
        """Observe everything again: an observation failed, or events may have been missed."""
        self.full_pass = self.ask_ledger = self.ask_children = True

    def mark_unknown(self, error: LedgerError) -> None:
        """Trust nothing here until the run is read again: a write was refused, or its outcome is unknown."""
        self.stale = True
        self.unsettled |= isinstance(error, LedgerUnavailable)


@dataclass(slots=True)
class Evaluations:
    """What decisions have asked to be evaluated. Written by `control.runs.evaluations`."""

    #: Answers by the keys of their requests, as long as decisions use them.
    answers: dict[str, Answer] = field(default_factory=dict)
    #: The batch that is being answered.
    under_way: asyncio.Task[Mapping[str, Answer]] | None = None


@dataclass(slots=True)
class Objects:
    """The objects of the run's attempts in the cluster. Written by the actuator and the executors."""

    #: Tasks by the names of the objects of their attempts.
    pod_names: dict[str, TaskKey] = field(default_factory=dict)
    #: Why objects do not exist yet, where the API server says so and it may heal: they are created again.
    blocked: dict[TaskKey, tuple[Reason, str]] = field(default_factory=dict)
    #: When blocked objects are created again.
    retries: dict[TaskKey, CreateRetry] = field(default_factory=dict)
    #: Creates that the API server has not answered. Passes go on meanwhile: a webhook may take half a minute.
    creating: dict[TaskKey, Creation] = field(default_factory=dict)
    creation_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CREATIONS))
    #: Tasks whose agents have not started and whose objects do not say why, by when to read their Events.
    silent: LazyHeap[TaskKey, datetime] = field(default_factory=LazyHeap)
    #: The open attempts of a run that was read from the ledger are in `silent`.
    silent_found: bool = False
    #: How often Events were read about an attempt.
    reads: dict[TaskKey, tuple[int, int]] = field(default_factory=dict)
    #: The newest warning Event about the object of an attempt that has not started, with its number.
    warnings: dict[TaskKey, tuple[int, str]] = field(default_factory=dict)
    #: Refusals that waiting does not heal, for the next observation.
    refusals: dict[TaskKey, Refusal] = field(default_factory=dict)
    #: Tasks whose pod is being deleted: observed in every pass, for a lost node sends no event any more.
    terminating: set[TaskKey] = field(default_factory=set)
    #: Jobs without a pod so far: only the API server knows whether such a Job still exists.
    jobs: dict[TaskKey, CreatedJob] = field(default_factory=dict)
    #: Attempts of which only the API server knows more, because no watch reports their objects, and when to
    #: ask again: pods outside the selector of the watch, Jobs without a pod.
    recheck: dict[TaskKey, datetime] = field(default_factory=dict)
    #: Tasks whose attempt has an object that an earlier creation left behind: observed in the same pass.
    adopted: set[TaskKey] = field(default_factory=set)
    #: Attempts that were open when the run was loaded: what the one before left behind is not known.
    unsure: dict[TaskKey, int] = field(default_factory=dict)
    #: Tasks whose attempt was asked to leave and has not left.
    stopping: set[TaskKey] = field(default_factory=set)
    #: Names of pods that may have outlived their closed attempts.
    cleanup_candidates: set[str] = field(default_factory=set)

    def index(self, attempts: Iterable[AttemptRecord]) -> None:
        """Record the names of the attempts' objects, and which attempts are stopping."""
        for attempt in attempts:
            self.pod_names[attempt.pod_name] = attempt.key
            leaving = attempt.stopping is not None and attempt.closed_at is None
            (self.stopping.add if leaving else self.stopping.discard)(attempt.key)


@dataclass(slots=True)
class Updates:
    """What others than the operator wrote about the run. Written by the observer."""

    vitals: dict[TaskKey, Vitals] = field(default_factory=dict)
    #: The newest of the vitals; None before there are any.
    vitals_since: datetime | None = None
    #: Signals that no decision has consumed: a step that starts later may still consume them.
    signals: dict[TaskKey, tuple[Signal, ...]] = field(default_factory=dict)

    def drop_consumed(self, ids: Iterable[str]) -> None:
        """Forget signals that a committed decision has consumed."""
        if gone := frozenset(ids):
            left = {
                key: tuple(signal for signal in signals if signal.id not in gone)
                for key, signals in self.signals.items()
            }
            self.signals = {key: signals for key, signals in left.items() if signals}


@dataclass(slots=True)
class Published:
    """What the statuses in the cluster say. Written by `control.status`."""

    #: Tasks whose AgentTask status is to be written, and since when.
    dirty: dict[TaskKey, datetime] = field(default_factory=dict)
    #: Tasks whose cause for waiting has changed since the last pass: dirty at its end.
    changed: set[TaskKey] = field(default_factory=set)
    #: Attempts whose agents have never reached the gateway, as their statuses say.
    unheard: set[tuple[TaskKey, int]] = field(default_factory=set)
    #: The task whose status was written last, so that all have their turn.
    last_turn: TaskKey | None = None
    #: The statuses last written, by kind and name.
    written_status: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    #: Tasks whose final status is written.
    final_status_written: set[TaskKey] = field(default_factory=set)
    #: The run has ended, and every task whose final status is not written is dirty.
    backfilled: bool = False

    def mark_dirty(self, keys: Iterable[TaskKey], since: datetime) -> None:
        """Tasks have changed. A task that is dirty already has been so since its first change."""
        for key in keys:
            self.dirty.setdefault(key, since)


@dataclass(slots=True)
class LiveRun:
    """One run between its admission and the writing of its final status."""

    key: RunKey
    view: RunView
    generation: int
    #: The object that created the run, if no person did.
    owner: RunKey | None = None
    agenda: Agenda = field(default_factory=Agenda)
    evaluations: Evaluations = field(default_factory=Evaluations)
    objects: Objects = field(default_factory=Objects)
    updates: Updates = field(default_factory=Updates)
    published: Published = field(default_factory=Published)

    @property
    def uid(self) -> str:
        return self.view.run.uid
