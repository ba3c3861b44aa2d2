"""The records of a run: the values that `decide`, the ledger and the control loop share.

The dataclasses are frozen: a transition is a new value, and a record that was read can be compared with the
one that is to be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from perdure.domain.events import EventType
from perdure.domain.payloads import Payload
from perdure.domain.phases import Phase, Reason

WORKFLOW = "Workflow"
AGENT_TASK = "AgentTask"

#: The kind of object that a person applied to start a run.
RunKind = Literal["Workflow", "AgentTask"]

#: What a person wants of a run: `spec.desiredState`.
DesiredState = Literal["Running", "Paused", "Cancelled"]

#: The index of a task whose step has no `forEach`.
NO_INDEX = -1


class TaskKey(NamedTuple):
    """A task within its run. A standalone AgentTask has the step name ''."""

    step: str
    index: int = NO_INDEX  # type: ignore[assignment] # hides tuple.index, which no code uses


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. `version` counts every change that a decision could depend on."""

    uid: str
    kind: RunKind
    namespace: str
    name: str
    generation: int
    shard: int
    phase: Phase
    #: The snapshot: the spec with its templates resolved, unaffected by later edits. {} if refused.
    spec: Mapping[str, Any]
    created_at: datetime
    reason: Reason | None = None
    message: str = ""
    outputs: Payload | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Why the run is being stopped: Cancelled, or Timeout. Stays while finally steps run.
    stop: Reason | None = None
    #: When the run's `timeout` ends; a pause moves the deadline.
    deadline_at: datetime | None = None
    #: Since when the run is paused; None if it is not.
    paused_at: datetime | None = None
    #: When history may be deleted: the end of the run's retention.
    expires_at: datetime | None = None
    version: int = 0
    last_sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A step that has started, ended or was skipped."""

    name: str
    phase: Phase
    reason: Reason | None = None
    message: str = ""
    #: Number of tasks: 1, the number of items of `forEach`, or of iterations of `repeat` so far.
    total: int = 1
    for_each: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task. Created when it is ready to start."""

    key: TaskKey
    #: Name of its AgentTask object.
    name: str
    phase: Phase
    reason: Reason | None = None
    message: str = ""
    input: Payload | None = None
    #: Number of the newest attempt; 0 if there is none yet.
    attempt: int = 0
    #: Attempts that failed and spent a retry.
    retries: int = 0
    #: Attempts that were lost to disruptions.
    disruptions: int = 0
    #: When the next attempt may start, or a wait ends; None if the task waits for no time.
    retry_at: datetime | None = None
    #: The last failure of the task: attempt, reason, message, exitCode. The next attempt can read it.
    last_failure: Mapping[str, Any] | None = None
    #: The key under which other tasks find the result, and until when; None without `cache`.
    cache_key: str | None = None
    cache_until: datetime | None = None
    output: Payload | None = None
    exit_code: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The end of an attempt, as its agent reported it through the gateway."""

    outcome: Literal["Succeeded", "Failed"]
    output: Payload | None = None
    message: str = ""
    retryable: bool = True
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A fact from outside a run, such as a person's decision or an agent's message.

    Kept in the run's inbox until a decision consumes it. The signals of a run are ordered as they were sent.
    """

    #: Unique within the run and given by the sender, who may send the signal again.
    id: str
    #: The task that the signal is for, which may not have been created yet; `TaskKey("")` for the run.
    key: TaskKey
    #: What the signal says, as the step kind that consumes it defines.
    name: str
    payload: Any = None
    #: Who sent the signal, as the ledger's caller authenticated the sender.
    sender: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One try at a task: one pod. Open until `closed_at` is set; a closed attempt can write nothing.

    The attempt of a `workflow` step is a child Workflow; `pod_name` and `pod_uid` are those of the child.
    """

    key: TaskKey
    number: int
    #: Name of the object that the operator creates for the attempt: a Pod, a Job or a Workflow.
    pod_name: str
    created_at: datetime
    #: Of the Pod (of a Job's pod once that is there), or of the child Workflow.
    pod_uid: str | None = None
    started_at: datetime | None = None
    #: Why the open attempt was asked to leave, after which it can save a checkpoint: Paused.
    stopping: Reason | None = None
    closed_at: datetime | None = None
    #: Phase in which the attempt ended: Succeeded, Failed or Cancelled; None while open.
    outcome: Phase | None = None
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None
    report: Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A run or schedule during whose passes processes died."""

    uid: str
    kind: str
    namespace: str
    name: str
    #: Of the object as it was then.
    fingerprint: str
    #: Deaths in a row.
    deaths: int
    #: The process that died last.
    life: str


class ChildClaim(NamedTuple):
    """Whether an attempt of a `workflow` step may create its child."""

    #: False if the root run has as many descendants as it may have.
    granted: bool
    #: Number of Workflows above the one that creates the child.
    depth: int


class Wake(NamedTuple):
    """A notification that something was written about a run, which a decision has not seen."""

    uid: str
    #: True for a report or a signal: the run can go on. False for a sign of life, of which there may be many.
    reported: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The last signs of life of a task's agent, for people; decisions use only the time of the newest."""

    key: TaskKey
    attempt: int
    changed_at: datetime
    checkpoint_sequence: int | None = None
    checkpoint_label: str | None = None
    checkpoint_at: datetime | None = None
    percent: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUpdates:
    """What others than the operator wrote about a run: reports, signals and signs of life."""

    #: The run's version in the ledger, read at the same moment as the reports and signals.
    version: int
    #: Reports of open attempts, by task, with the number of the attempt.
    reports: Mapping[TaskKey, tuple[int, Report]]
    #: Signals that no decision has consumed, by task and in the order in which they were sent.
    signals: Mapping[TaskKey, tuple[Signal, ...]] = field(default_factory=dict)
    vitals: tuple[Vitals, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedResult:
    """The result of another task of the namespace under a `cache` key."""

    output: Payload | None
    #: The run and the task that the result is from.
    workflow: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEvent:
    """An event of a decision. The ledger numbers the event within its run when the decision is committed."""

    type: EventType
    time: datetime
    data: Mapping[str, Any] = field(default_factory=dict)
    #: Name of the AgentTask, if the event is about one.
    task: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A committed event. `<workflow_uid>/<sequence>` is its stable id."""

    workflow_uid: str
    namespace: str
    workflow: str
    kind: RunKind
    sequence: int
    #: An `EventType`, or one of a newer version that wrote the event.
    type: str
    time: datetime
    data: Mapping[str, Any]
    task: str | None = None
    attempt: int | None = None

    @property
    def id(self) -> str:
        """The id of the event: unique, and the same however often the event is published."""
        return f"{self.workflow_uid}/{self.sequence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """A committed event that is still to be published. `id` is what `Ledger.outbox_done` takes."""

    id: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A live run with its steps and tasks. `attempts` holds the newest attempt of each task only."""

    run: RunRecord
    steps: Mapping[str, StepRecord]
    tasks: Mapping[TaskKey, TaskRecord]
    attempts: Mapping[TaskKey, AttemptRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEntry:
    """A live run in the ledger's index: what an operator knows of a run before the run is loaded."""

    uid: str
    #: Text: a newer version may have further kinds.
    kind: str
    namespace: str
    name: str
    #: Open attempts, children of `workflow` steps included.
    open: int
    #: An estimate of the bytes that the state of the run takes when it is read.
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePage:
    """Some of the live runs; those that cannot be read by their uid, with the cause."""

    states: tuple[RunState, ...]
    unreadable: Mapping[str, Exception]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One decision's changes to one run: written as a whole, or not at all.

    `run.version` is the version that the decision saw; 0 creates the run. Records replace those of the same
    key in the ledger; only the run's spec stays as it was created. Reports are the agents': those of attempts
    are not written. A payload without a body stays as it is, or is copied from its source.
    """

    run: RunRecord
    steps: tuple[StepRecord, ...] = ()
    tasks: tuple[TaskRecord, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    events: tuple[PendingEvent, ...] = ()
    #: Ids of the signals that the decision used: no later decision sees them.
    consumed: tuple[str, ...] = ()
    #: Bytes of all inputs and outputs of the run after this commit.
    payload_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The numbers that the ledger gave a commit."""

    version: int
    last_sequence: int


class LedgerError(Exception):
    """Base of the errors of the ledger."""


class LedgerUnavailable(LedgerError):
    """The ledger cannot be reached, or did not answer in time. Whether a write took effect is unknown."""


class Deposed(LedgerError):
    """The epoch that the write named is no longer the newest: another operator has taken over."""


class VersionConflict(LedgerError):
    """The run has changed since the decision saw it: observe and decide again."""


class Superseded(LedgerError):
    """The attempt that wrote is closed, or not the task's newest."""
