"""What was seen of a run's pods and agents, as an argument of a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.expressions.evaluation import Answer
from perdure.domain.payloads import Payload
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, DesiredState, Report, Signal, TaskKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The API server's refusal to make the pod of an attempt, for a cause that waiting does not heal."""

    attempt: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRun:
    """How the child Workflow of a `workflow` step stands, as the ledger has it."""

    uid: str
    phase: Phase
    reason: Reason | None = None
    message: str = ""
    outputs: Payload | None = None
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was observed of a run's open attempts. A task that is not mentioned has nothing new."""

    #: Start of the observation, None for now. No attempt's time is over after that: since then it may have
    #: started, ended or given a sign of life.
    observed_at: datetime | None = None
    pods: Mapping[TaskKey, PodFacts] = field(default_factory=dict)
    #: Tasks whose object was created, and of which the API server itself says that it was deleted.
    gone: frozenset[TaskKey] = frozenset()
    #: Reports in the ledger, with the number of the attempt that made them.
    reports: Mapping[TaskKey, tuple[int, Report]] = field(default_factory=dict)
    #: Signals that no decision has consumed, in the order in which they were sent.
    signals: Mapping[TaskKey, tuple[Signal, ...]] = field(default_factory=dict)
    refusals: Mapping[TaskKey, Refusal] = field(default_factory=dict)
    #: Children of `workflow` steps that are known to the ledger.
    children: Mapping[TaskKey, ChildRun] = field(default_factory=dict)
    #: Newest signs of life: the attempt's number, and when.
    signs: Mapping[TaskKey, tuple[int, datetime]] = field(default_factory=dict)
    #: Why the pods of open attempts do not exist yet, where the API server says so.
    blocked: Mapping[TaskKey, tuple[Reason, str]] = field(default_factory=dict)
    #: The newest warning Events about objects whose agents have not started, by attempt.
    warnings: Mapping[TaskKey, tuple[int, str]] = field(default_factory=dict)
    #: Answers to a decision's questions for cached results; None where there is none.
    cached: Mapping[TaskKey, CachedResult | None] = field(default_factory=dict)
    #: Answers to the requests of earlier decisions, by the keys of the requests.
    answers: Mapping[str, Answer] = field(default_factory=dict)
    #: What is wanted of the run, here or by the Workflow above.
    desired: DesiredState = "Running"
    #: Attempts that may be started now under limits that many runs share; None if there are no such limits.
    slots: int | None = None
    #: The object that a person applied was deleted.
    deleted: bool = False

    def warning(self, key: TaskKey, attempt: int) -> str | None:
        """The newest warning Event about the object of an attempt; None if there is none."""
        number, text = self.warnings.get(key, (0, ""))
        return text if number == attempt else None

    def without_changes(self) -> Observed:
        """What still holds for a second decision of the same pass, once the first has used all changes.

        Pods that are being deleted stay: if their node is lost, time alone ends their attempts. Signals stay
        as well, since they are taken from the inbox only when a decision consumes them.
        """
        terminating = {key: pod for key, pod in self.pods.items() if pod.deletion is not None}
        return Observed(
            observed_at=self.observed_at,
            pods=terminating,
            signals=self.signals,
            signs=self.signs,
            blocked=self.blocked,
            warnings=self.warnings,
            desired=self.desired,
            slots=self.slots,
            deleted=self.deleted,
        )
