"""The types of events: what a run reports about itself, as a closed set that people subscribe to by name.

docs/events.md is generated from this module: a new type is a member with a comment, a line in `DATA`, and the
place that emits the event.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from perdure.domain.phases import Phase


class EventType(StrEnum):
    """What happened to a run or to one of its tasks. The values are part of subjects and never change."""

    # --- about a run
    #: The Workflow was accepted, or refused; always the first event of its run.
    WORKFLOW_CREATED = "workflow.created"
    #: The first step of the run started.
    WORKFLOW_STARTED = "workflow.started"
    #: `desiredState: Paused` took effect: nothing starts, and attempts that run are asked to leave.
    WORKFLOW_PAUSED = "workflow.paused"
    #: `desiredState: Running` took effect after a pause: what was paused goes on.
    WORKFLOW_RESUMED = "workflow.resumed"
    #: The run ended with its outputs; the last event of its run, as the next two are.
    WORKFLOW_SUCCEEDED = "workflow.succeeded"
    #: The run failed, or was refused.
    WORKFLOW_FAILED = "workflow.failed"
    #: The run was cancelled, or its Workflow was deleted.
    WORKFLOW_CANCELLED = "workflow.cancelled"
    # --- about a task
    #: An attempt was opened: its pod is created next.
    TASK_SCHEDULED = "task.scheduled"
    #: The container of the attempt started, a child Workflow started, or a wait for a time or signal began.
    TASK_STARTED = "task.started"
    #: The agent saved a checkpoint, which is durable. Of one attempt, 30 events may follow each other at
    #: once, and then two a second: the event stands for the checkpoints without an event before it, all of
    #: which the ledger lists. The last ones before the end of an attempt may have none.
    TASK_CHECKPOINTED = "task.checkpointed"
    #: The agent reported its progress.
    TASK_PROGRESS = "task.progress"
    #: The attempt failed, and the task is tried again under its `retry`.
    TASK_RETRYING = "task.retrying"
    #: The attempt was lost to a disruption, which spends no retry.
    TASK_DISRUPTED = "task.disrupted"
    #: The task ended with a committed result.
    TASK_SUCCEEDED = "task.succeeded"
    #: The task ended without a result.
    TASK_FAILED = "task.failed"
    #: The task was stopped on request, with its run or by a limit of time.
    TASK_CANCELLED = "task.cancelled"
    #: The step or the task never started and never will.
    TASK_SKIPPED = "task.skipped"

    @property
    def about_workflow(self) -> bool:
        """True for events of a Workflow as a whole, which a standalone AgentTask has none of."""
        return self.value.startswith("workflow.")


#: The event that ends a run of the kind Workflow, by the phase in which the run ends.
WORKFLOW_ENDED: Final[Mapping[Phase, EventType]] = MappingProxyType(
    {
        Phase.SUCCEEDED: EventType.WORKFLOW_SUCCEEDED,
        Phase.FAILED: EventType.WORKFLOW_FAILED,
        Phase.CANCELLED: EventType.WORKFLOW_CANCELLED,
    }
)

#: The event that ends a task, by the phase in which the task ends.
TASK_ENDED: Final[Mapping[Phase, EventType]] = MappingProxyType(
    {
        Phase.SUCCEEDED: EventType.TASK_SUCCEEDED,
        Phase.FAILED: EventType.TASK_FAILED,
        Phase.CANCELLED: EventType.TASK_CANCELLED,
        Phase.SKIPPED: EventType.TASK_SKIPPED,
    }
)

_TASK: Final = ("step", "index")
_END: Final = ("reason", "message")

#: The fields that `data` of an event may have. A field without a value is left out.
DATA: Final[Mapping[EventType, tuple[str, ...]]] = MappingProxyType(
    {
        EventType.WORKFLOW_CREATED: ("generation",),
        EventType.WORKFLOW_STARTED: (),
        EventType.WORKFLOW_PAUSED: (),
        EventType.WORKFLOW_RESUMED: ("pausedSeconds",),
        EventType.WORKFLOW_SUCCEEDED: _END,
        EventType.WORKFLOW_FAILED: _END,
        EventType.WORKFLOW_CANCELLED: _END,
        EventType.TASK_SCHEDULED: _TASK,
        EventType.TASK_STARTED: (*_TASK, "pod", "until"),
        EventType.TASK_CHECKPOINTED: ("sequence", "label", "size", "recoverable"),
        EventType.TASK_PROGRESS: ("percent", "message"),
        EventType.TASK_RETRYING: (*_TASK, *_END, "exitCode", "retry", "limit", "retryAt"),
        EventType.TASK_DISRUPTED: (*_TASK, *_END, "exitCode", "disruptions"),
        EventType.TASK_SUCCEEDED: (*_TASK, *_END),
        EventType.TASK_FAILED: (*_TASK, *_END, "exitCode"),
        EventType.TASK_CANCELLED: (*_TASK, *_END),
        EventType.TASK_SKIPPED: (*_TASK, *_END),
    }
)

#: What the fields of `data` mean, whatever the event is.
FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "generation": "`metadata.generation` of the object that was accepted.",
        "pausedSeconds": "How long the run was paused, in seconds.",
        "step": "Name of the task's step; left out for an AgentTask that was applied by itself.",
        "index": "Number of the task in its `forEach`, from 0; left out without one.",
        "reason": "A reason of [semantics.md](semantics.md#phases-and-reasons).",
        "message": "Text for people: why the phase or attempt ended, or what the agent says of its progress.",
        "exitCode": "Exit code of the agent's container, if there is one.",
        "pod": "Name of the attempt's pod, or of the child Workflow.",
        "until": "When the wait ends at the latest, RFC 3339; left out for a wait without a time.",
        "sequence": "Number of the checkpoint, from 1 within the task.",
        "label": "What the agent called the checkpoint; null without a label.",
        "size": "Bytes that the agent saved.",
        "recoverable": "Whether a new attempt goes on from the checkpoint.",
        "percent": "How far the attempt is, 0 to 100; null if the agent did not say.",
        "retry": "Number of the retry, from 1.",
        "limit": "`retry.limit` of the step.",
        "retryAt": "When the next attempt may start, RFC 3339; left out while the run is paused.",
        "disruptions": "How many attempts of the task were lost to disruptions.",
    }
)
