"""Phases and reasons of runs, steps and tasks, and the transitions between phases.

A transition that is not in the table is a programming error and raises. Documentation and tests derive from
the table, so that neither can disagree with the code.
"""

from __future__ import annotations

from enum import StrEnum


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
    """Why something is in its phase. A closed set: metrics, alerts and scripts may rely on it."""

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
    #: A `wait` step whose time has not come.
    WAITING = "Waiting"
    #: A template that it names does not exist (yet).
    TEMPLATE_NOT_FOUND = "TemplateNotFound"
    #: The ledger cannot be reached; nothing new starts.
    LEDGER_UNAVAILABLE = "LedgerUnavailable"
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
    #: The container was killed for want of memory.
    OOM_KILLED = "OOMKilled"
    #: Lost to disruptions more often than allowed.
    DISRUPTION_LIMIT = "DisruptionLimit"
    #: What the manifest says can never work.
    INVALID_CONFIG = "InvalidConfig"
    #: An expression failed, or gave a value of the wrong kind.
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


#: Every step that a run, a step or a task may take from one phase to another.
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset(
        {Phase.RUNNING, Phase.PAUSED, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.SKIPPED}
    ),
    # Running goes back to Pending while a task waits for its next attempt.
    Phase.RUNNING: frozenset({Phase.PENDING, Phase.PAUSED, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}),
    # A run ends while it is paused if what was still running ended and nothing is left to start. A task that
    # had not started when the pause came may never do so.
    Phase.PAUSED: frozenset(
        {Phase.PENDING, Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.SKIPPED}
    ),
    Phase.SUCCEEDED: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.CANCELLED: frozenset(),
    Phase.SKIPPED: frozenset(),
}


class IllegalTransition(Exception):
    """A phase change that the table does not have."""


def check_transition(before: Phase, after: Phase) -> None:
    """Raise IllegalTransition unless `before` may become `after`. Staying is always allowed."""
    if before is not after and after not in TRANSITIONS[before]:
        raise IllegalTransition(f"{before} -> {after}")
