"""The statuses that the operator writes, as models, so that the schema and the status writer agree.

In the CRD these fields carry types and descriptions only, and unknown ones are kept: an older schema must
never refuse or prune what a newer operator writes. The bounds of a status are held where it is made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from perdure.api.base import Json, Model, list_map

MAX_STATUS_STEPS = 100
MAX_STEP_MESSAGE = 120
#: Characters of the column MESSAGE of `kubectl get`, of which more would wrap.
MAX_SUMMARY = 100


def timestamp(time: datetime) -> str:
    """An aware `time` as Kubernetes writes it: RFC 3339, UTC, whole seconds."""
    return time.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


Timestamp = Annotated[datetime, PlainSerializer(timestamp, when_used="json")]


class Condition(Model):
    """One aspect of the object's state, in the form that `kubectl wait` and other tools read."""

    #: Accepted, Ready, Reconciling, Stalled, Complete or Failed.
    type: str
    #: True, False or Unknown.
    status: Literal["True", "False", "Unknown"]
    #: The generation of the spec that this is about.
    observed_generation: int | None = None
    #: When `status` last changed.
    last_transition_time: Timestamp
    #: Why, as one word of a closed set.
    reason: str
    #: Why, for people.
    message: str = ""


Conditions = Annotated[list[Condition], Field(json_schema_extra=list_map("type"))]


class StepStatus(Model):
    """Where one step stands."""

    #: Name of the step.
    name: str
    #: Pending, Running, Paused, Succeeded, Failed, Cancelled or Skipped.
    phase: str
    #: Why it is in this phase, as one word of a closed set.
    reason: str | None = None
    #: Why, for people.
    message: Annotated[str, Field(max_length=MAX_STEP_MESSAGE)] | None = None
    #: Numbers of its tasks: `total`, and by phase; zeros are left out.
    tasks: dict[str, int] | None = None


class WorkflowStatus(Model):
    """Where a run stands. At most 32 KiB; the full history is in the ledger."""

    #: The generation of the spec that was reconciled.
    observed_generation: int | None = None
    #: Pending, Running, Paused, Succeeded, Failed or Cancelled. For people; scripts should wait for
    #: conditions.
    phase: str | None = None
    #: What has finished of what is known to be done, such as 3/10.
    progress: str | None = None
    #: What the run waits for, or why it ended, for people.
    message: str | None = None
    #: The beginning of `message` on one line, for `kubectl get`; left out if `message` is as short.
    summary: Annotated[str, Field(max_length=MAX_SUMMARY)] | None = None
    #: When it started.
    started_at: Timestamp | None = None
    #: When it ended.
    finished_at: Timestamp | None = None
    #: Numbers of the run's tasks: `total`, and by phase; zeros are left out.
    tasks: dict[str, int] | None = None
    #: Attempts that were made in all, those lost to disruptions included.
    attempts: int | None = None
    #: Number of the run's last event.
    events: int | None = None
    #: The steps; of more than 100, active and failed ones first, and the rest only counted.
    steps: (
        Annotated[list[StepStatus], Field(max_length=MAX_STATUS_STEPS, json_schema_extra=list_map("name"))]
        | None
    ) = None
    #: What `spec.outputs` gave when the run succeeded, if it is small enough to be kept here.
    outputs: Json = None
    #: Accepted, Ready, Reconciling, Stalled, and at the end Complete or Failed.
    conditions: Conditions | None = None


class CheckpointStatus(Model):
    """The newest checkpoint: where a new attempt would go on."""

    #: Number of the checkpoint, counted from 1 over all attempts.
    sequence: int
    #: What the agent called it.
    label: str | None = None
    #: When it was saved.
    at: Timestamp


class ProgressStatus(Model):
    """How far the agent says it is."""

    #: From 0 to 100.
    percent: float | None = None
    #: What it is doing.
    message: str | None = None


class LastFailure(Model):
    """The newest attempt that failed; the next attempt receives the same facts."""

    #: Number of the attempt.
    attempt: int
    #: Why it failed, as one word of a closed set.
    reason: str
    #: Why, for people.
    message: str | None = None
    #: Exit code of its container, if that has ended.
    exit_code: int | None = None


class AgentTaskStatus(Model):
    """Where a task stands."""

    #: The generation of the spec that was reconciled.
    observed_generation: int | None = None
    #: Pending, Running, Paused, Succeeded, Failed or Cancelled. For people; scripts should wait for
    #: conditions.
    phase: str | None = None
    #: Why it is in this phase, as one word of a closed set.
    reason: str | None = None
    #: Why, for people.
    message: str | None = None
    #: The beginning of `message` on one line, for `kubectl get`; left out if `message` is as short.
    summary: Annotated[str, Field(max_length=MAX_SUMMARY)] | None = None
    #: Number of the newest attempt.
    attempt: int | None = None
    #: The newest attempt's pod.
    pod_name: str | None = None
    #: When the next attempt starts, while the task waits for that.
    next_attempt_at: Timestamp | None = None
    #: Exit code of the last attempt that ended.
    exit_code: int | None = None
    #: Attempts that failed and were tried again.
    retries: int | None = None
    #: Attempts that were lost to disruptions.
    disruptions: int | None = None
    #: The newest attempt that failed.
    last_failure: LastFailure | None = None
    #: The newest checkpoint.
    checkpoint: CheckpointStatus | None = None
    #: How far the agent says it is.
    progress: ProgressStatus | None = None
    #: The task's result, if it is small enough to be kept here.
    output: Json = None
    #: When its first attempt started.
    started_at: Timestamp | None = None
    #: When it ended.
    finished_at: Timestamp | None = None
    #: Accepted, Ready, Reconciling, Stalled, and at the end Complete or Failed.
    conditions: Conditions | None = None


class ActiveRun(Model):
    """A Workflow that a schedule has made and that is live."""

    #: Its name.
    name: str
    #: Its uid.
    uid: str


class WorkflowScheduleStatus(Model):
    """What a schedule has done, and does next."""

    #: The generation of the spec that was reconciled.
    observed_generation: int | None = None
    #: Runs that are live.
    active: Annotated[list[ActiveRun], Field(json_schema_extra=list_map("name"))] | None = None
    #: The newest scheduled time for which a run was made.
    last_schedule_time: Timestamp | None = None
    #: When a run last succeeded.
    last_successful_time: Timestamp | None = None
    #: The next scheduled time; none while it is suspended.
    next_schedule_time: Timestamp | None = None
    #: What it waits for, or why it makes no runs, for people.
    message: str | None = None
    #: Ready, and whatever else there is to say.
    conditions: Conditions | None = None
