"""A live run as the control loop holds it: what the ledger has of it, and what is remembered of the cluster.

Everything here can be lost and found again: the view from the ledger, the rest by looking at all tasks once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from perdure.control.cluster_cache.run_key import RunKey
from perdure.domain.engine.observed import Refusal
from perdure.domain.engine.view import RunView
from perdure.domain.phases import Reason
from perdure.domain.records import AttemptRecord, LedgerError, LedgerUnavailable, Signal, TaskKey, Vitals


class MadeJob(NamedTuple):
    """A Job that is known to have been there for an attempt, and whose pod has not been seen."""

    attempt: int
    name: str
    uid: str


@dataclass(slots=True)
class LiveRun:
    """One run between its acceptance and the last word about it in its status."""

    key: RunKey
    view: RunView
    generation: int
    #: What made it, if no person did.
    owner: RunKey | None = None
    #: What the ledger has is not what is here, or is not known: it is read again before anything else.
    stale: bool = False
    #: The outcome of a commit is unknown: it may even take effect after the run was read again.
    unsettled: bool = False
    #: Look at every live task at the next pass, not only at what changed.
    look_at_all: bool = True
    #: Ask the ledger at the next pass what agents wrote.
    ask_ledger: bool = True
    #: Ask the ledger at the next pass how child Workflows stand.
    ask_children: bool = True
    #: Tasks by the names of the pods of their attempts.
    pod_names: dict[str, TaskKey] = field(default_factory=dict)
    vitals: dict[TaskKey, Vitals] = field(default_factory=dict)
    vitals_since: datetime | None = None
    #: Signals that no decision has consumed: a step that starts later may still consume them.
    signals: dict[TaskKey, tuple[Signal, ...]] = field(default_factory=dict)
    #: Why pods are not there yet, where the API server says so: it may heal, and is tried again.
    held_up: dict[TaskKey, tuple[Reason, str]] = field(default_factory=dict)
    #: When to ask for them again; None if none is held up.
    ask_again_at: datetime | None = None
    refusals: dict[TaskKey, Refusal] = field(default_factory=dict)
    #: Tasks whose pod is being deleted: looked at in every pass, for a lost node sends no event any more.
    leaving: set[TaskKey] = field(default_factory=set)
    #: Jobs without a pod so far: it is only known by asking whether one is still there.
    jobs: dict[TaskKey, MadeJob] = field(default_factory=dict)
    #: Tasks whose attempt was asked to leave and has not left.
    stopping: set[TaskKey] = field(default_factory=set)
    #: More than 0 if the last decision would have started attempts, had there been slots for them.
    wants: int = 0
    #: The task whose status was written last, so that all have their turn.
    shown_last: TaskKey | None = None
    #: Names of pods that may have outlived their closed attempts.
    lingering: set[str] = field(default_factory=set)
    #: Tasks whose AgentTask status is to be written, and since when.
    unshown: dict[TaskKey, datetime] = field(default_factory=dict)
    #: Tasks whose last status is written.
    told: set[TaskKey] = field(default_factory=set)
    #: The run has ended, and it is known which of its tasks are still to be told.
    sought: bool = False
    #: The statuses last written, by kind and name.
    shown: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        return self.view.run.uid

    def mark_unknown(self, error: LedgerError) -> None:
        """A write was refused, or nobody knows what became of it: nothing here is gone by any longer."""
        self.stale = True
        self.unsettled |= isinstance(error, LedgerUnavailable)

    def note_unshown(self, keys: Iterable[TaskKey], since: datetime) -> None:
        """Tasks have changed. One that was not shown since it changed before has waited all the time."""
        for key in keys:
            self.unshown.setdefault(key, since)

    def drop_consumed(self, ids: Iterable[str]) -> None:
        """Forget signals that a committed decision has consumed."""
        if gone := frozenset(ids):
            left = {
                key: tuple(signal for signal in signals if signal.id not in gone)
                for key, signals in self.signals.items()
            }
            self.signals = {key: signals for key, signals in left.items() if signals}

    def learn_pods(self, attempts: Iterable[AttemptRecord]) -> None:
        """Index the pods of attempts."""
        for attempt in attempts:
            self.pod_names[attempt.pod_name] = attempt.key
            leaving = attempt.stopping is not None and attempt.closed_at is None
            (self.stopping.add if leaving else self.stopping.discard)(attempt.key)
