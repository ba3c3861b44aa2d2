"""Phases and reasons of runs, steps and tasks, and the transitions between phases.

A transition that is not in the table is a programming error and raises. Documentation and tests derive from
the table, so that neither can disagree with the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Phase(StrEnum):
    """The phase of a run, a step or a task."""

    #: Not started: waits for something named by its reason.
    PENDING = "Pending"
    #: At least one attempt has started.
    RUNNING = "Running"
    #: Stopped for now on request: no pod, no timer runs, and it goes on where it was.
    PAUSED = "Paused"
    #: Ended with a committed result.
    SUCCEEDED = "Succeeded"
    #: Ended without one.
    FAILED = "Failed"
    #: Stopped on request, or because its run was deleted.
    CANCELLED = "Cancelled"
    #: Never started, and never will.
    SKIPPED = "Skipped"

    @property
    def terminal(self) -> bool:
        """True if nothing follows this phase."""
        return self in TERMINAL


TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.SKIPPED})


class Reason(StrEnum):
    """Why something is in its phase. A closed set: metrics, alerts and scripts may rely on it.

    Only the ledger may hold others: reasons of a newer version, which `Reason.kept` reads.
    """

    # --- waiting
    #: A step it depends on has not finished.
    DEPENDENCY = "Dependency"
    #: The run's parallelism is used up.
    PARALLELISM = "Parallelism"
    #: The API server refused the pod for a resource quota.
    QUOTA = "Quota"
    #: The scheduler finds no node for the pod.
    UNSCHEDULABLE = "Unschedulable"
    #: The image is being pulled, or cannot be pulled yet.
    IMAGE_PULL = "ImagePull"
    #: The pod exists and its container has not started.
    STARTING = "Starting"
    #: The next attempt waits for its delay.
    BACKOFF = "Backoff"
    #: `desiredState` is Paused, here or in the Workflow above.
    PAUSED = "Paused"
    #: A limit of the namespace or of the whole installation is used up.
    LIMIT = "Limit"
    #: The time or the signal that the step waits for has not come.
    WAITING = "Waiting"
    #: Its Job is suspended; of a schedule, `suspend` is true.
    SUSPENDED = "Suspended"
    #: A template that it names does not exist (yet).
    TEMPLATE_NOT_FOUND = "TemplateNotFound"
    #: The ledger cannot be reached; nothing new starts.
    LEDGER_UNAVAILABLE = "LedgerUnavailable"
    #: The operator's process died twice during a pass over the run: set aside until the object changes.
    QUARANTINED = "Quarantined"
    #: A pass of the operator over the run fails, and is tried again with growing delays.
    RECONCILE_ERROR = "ReconcileError"
    # --- ended
    #: An attempt ran longer than its `timeout`, or a run longer than its own.
    TIMEOUT = "Timeout"
    #: An attempt's container did not start within `pendingTimeout`.
    PENDING_TIMEOUT = "PendingTimeout"
    #: An attempt gave no sign of life for `idleTimeout`.
    IDLE_TIMEOUT = "IdleTimeout"
    #: Stopped, or never started, because the run's `timeout` was over.
    WORKFLOW_TIMEOUT = "WorkflowTimeout"
    #: The container ended with a code other than 0.
    EXIT_CODE = "ExitCode"
    #: The container exceeded its memory limit and was killed.
    OOM_KILLED = "OOMKilled"
    #: The pod exceeded a limit of its own for ephemeral storage or for a volume, and was evicted for that.
    EVICTED = "Evicted"
    #: Lost to disruptions more often than allowed.
    DISRUPTION_LIMIT = "DisruptionLimit"
    #: What the manifest says can never work.
    INVALID_CONFIG = "InvalidConfig"
    #: An expression failed, gave a value of the wrong kind, or gave more than the limits allow.
    EXPRESSION_ERROR = "ExpressionError"
    #: `forEach` has more items than allowed.
    TOO_MANY_ITEMS = "TooManyItems"
    #: `repeat` came to its `maxIterations` without its `until`.
    MAX_ITERATIONS = "MaxIterations"
    #: More tasks of a `forEach` step failed than its `maxFailures` tolerates.
    MAX_FAILURES = "MaxFailures"
    #: Tasks of a `forEach` step failed.
    TASKS_FAILED = "TasksFailed"
    #: The child of a `workflow` step failed or was cancelled.
    CHILD_FAILED = "ChildFailed"
    #: An object of the needed name exists and is not ours.
    NAME_CONFLICT = "NameConflict"
    #: A dependency did not succeed.
    DEPENDENCY_NOT_MET = "DependencyNotMet"
    #: Its `when` was false.
    CONDITION_FALSE = "ConditionFalse"
    #: The run failed before this could start, or stopped it because of that.
    WORKFLOW_FAILED = "WorkflowFailed"
    #: The agent reported a failure.
    AGENT_FAILURE = "AgentFailure"
    #: The container ended well, but left no result, and `agent.result` is Required.
    NO_RESULT = "NoResult"
    #: `desiredState` is Cancelled.
    CANCELLED = "Cancelled"
    #: Not run: an equal `cache` key had a result already.
    CACHED = "Cached"
    #: The object was deleted while the run was live.
    DELETED = "Deleted"
    # --- an attempt's end that is no failure of the agent
    #: The pod was evicted, preempted, deleted from outside or lost with its node.
    DISRUPTED = "Disrupted"
    #: The agent left with exit code 75: run it again from its checkpoint.
    INTERRUPTED = "Interrupted"
    #: The agent left with exit code 76: it had been superseded.
    SUPERSEDED = "Superseded"
    # --- a schedule's condition Ready
    #: Runs are created at their times.
    SCHEDULED = "Scheduled"
    #: The API server refuses the run that is due.
    REFUSED = "Refused"

    @classmethod
    def kept(cls, text: str) -> Reason:
        """The reason of a row, also one that this version does not know.

        The set grows, and after a roll-back this version reads what a newer one wrote. An unknown reason is
        shown and written back as it is; it equals no member.
        """
        try:
            return cls(text)
        except ValueError:
            unknown = str.__new__(cls, text)
            unknown._name_ = unknown._value_ = text
            return unknown


class Trigger(StrEnum):
    """What takes a run, a step or a task from one phase to another."""

    #: A part begins: the first step of a run, the first task of a step, an attempt of a task, or a wait.
    START = "start"
    #: Nothing runs until the next attempt of a task may start, or, after a pause, until a first start.
    WAIT = "wait"
    #: `desiredState: Paused` takes effect.
    PAUSE = "pause"
    #: `desiredState: Running` takes effect: a run or a wait goes on where it was.
    RESUME = "resume"
    #: The end, with a result.
    SUCCEED = "succeed"
    #: The end, without a result.
    FAIL = "fail"
    #: A stop on request, with the run, by a limit of time, or because the object was deleted.
    CANCEL = "cancel"
    #: The decision that the step or task never starts.
    SKIP = "skip"


#: The trigger of each end.
END_TRIGGERS: Final[Mapping[Phase, Trigger]] = MappingProxyType(
    {
        Phase.SUCCEEDED: Trigger.SUCCEED,
        Phase.FAILED: Trigger.FAIL,
        Phase.CANCELLED: Trigger.CANCEL,
        Phase.SKIPPED: Trigger.SKIP,
    }
)

_ENDS: Final = {
    Trigger.SUCCEED: Phase.SUCCEEDED,
    Trigger.FAIL: Phase.FAILED,
    Trigger.CANCEL: Phase.CANCELLED,
}
_NEVER_STARTED: Final = {**_ENDS, Trigger.SKIP: Phase.SKIPPED}

Transitions = Mapping[tuple[Phase, Trigger], Phase]


def _table(rows: Mapping[Phase, Mapping[Trigger, Phase]]) -> Transitions:
    return MappingProxyType(
        {(before, trigger): after for before, triggers in rows.items() for trigger, after in triggers.items()}
    )


#: The transitions of a run. A run whose steps are all skipped, or end in the decision that starts them, ends
#: without having been Running; a paused run ends if what still ran has ended and nothing is left to start.
RUN: Final = _table(
    {
        Phase.PENDING: {Trigger.START: Phase.RUNNING, Trigger.PAUSE: Phase.PAUSED, **_ENDS},
        Phase.RUNNING: {Trigger.PAUSE: Phase.PAUSED, **_ENDS},
        Phase.PAUSED: {Trigger.WAIT: Phase.PENDING, Trigger.RESUME: Phase.RUNNING, **_ENDS},
    }
)

#: The transitions of a step, which is never Paused: a pause holds its tasks.
STEP: Final = _table(
    {
        Phase.PENDING: {Trigger.START: Phase.RUNNING, **_NEVER_STARTED},
        Phase.RUNNING: _ENDS,
    }
)

#: The transitions of a task, which is Pending again while it waits for its next attempt.
TASK: Final = _table(
    {
        Phase.PENDING: {Trigger.START: Phase.RUNNING, Trigger.PAUSE: Phase.PAUSED, **_NEVER_STARTED},
        Phase.RUNNING: {Trigger.WAIT: Phase.PENDING, Trigger.PAUSE: Phase.PAUSED, **_ENDS},
        Phase.PAUSED: {Trigger.WAIT: Phase.PENDING, Trigger.RESUME: Phase.RUNNING, **_NEVER_STARTED},
    }
)


class IllegalTransition(Exception):
    """A phase change that the table lacks: an error of the program."""


def check_transition(table: Transitions, before: Phase, trigger: Trigger | None, after: Phase) -> None:
    """Raise IllegalTransition unless `trigger` takes `before` to `after`. A phase may always stay."""
    if before is after:
        return
    if trigger is None or table.get((before, trigger)) is not after:
        raise IllegalTransition(f"{before} -> {after} by {trigger or 'no trigger'}")


def successors(table: Transitions, before: Phase) -> frozenset[Phase]:
    """The phases that may follow `before`, whatever the trigger."""
    return frozenset(after for (phase, _), after in table.items() if phase is before)
