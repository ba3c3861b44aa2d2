"""The custom resources of `perdure.dev`: names, models, and the columns of `kubectl get`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from pydantic import BaseModel

from perdure.api import GROUP, agenttask, workflow
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.agenttemplate import AgentTemplateSpec
from perdure.api.spec_models import SpecModels
from perdure.api.status import AgentTaskStatus, WorkflowScheduleStatus, WorkflowStatus
from perdure.api.workflow import WorkflowSpec
from perdure.api.workflowschedule import MAX_SCHEDULE_NAME, WorkflowScheduleSpec
from perdure.api.workflowtemplate import WorkflowTemplateSpec

CATEGORY: Final = "perdure"
#: Characters of a DNS label.
MAX_LABEL: Final = 63


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; a wide one shows with `-o wide` only."""

    name: str
    path: str
    type: Literal["string", "integer", "boolean", "date"] = "string"
    description: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomResource:
    """One custom resource."""

    kind: str
    plural: str
    short_name: str
    description: str
    spec: type[BaseModel]
    status: type[BaseModel] | None
    columns: tuple[Column, ...]
    #: Characters of a name, which is then a DNS label, because subjects and pods carry the name; None if the
    #: rules of Kubernetes are enough.
    max_name: int | None
    #: The other fields of a spec in which only `desiredState` can be changed; empty if all can.
    fixed: tuple[str, ...] = ()

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def crd_name(self) -> str:
        """Name of its CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


_AGE = Column("Age", ".metadata.creationTimestamp", "date", "Time since it was applied")

WORKFLOW: Final = CustomResource(
    kind="Workflow",
    plural="workflows",
    short_name="pwf",
    description="One run of a graph of steps, each of which is done by agents in pods.",
    spec=WorkflowSpec,
    status=WorkflowStatus,
    columns=(
        Column("Phase", ".status.phase", "string", "Where the run stands"),
        Column("Progress", ".status.progress", "string", "What has finished, of what is known"),
        # The summary, or else the message, which then is as short.
        Column("Message", ".status['summary','message']", "string", "What it waits for, or why it ended"),
        _AGE,
        Column("Attempts", ".status.attempts", "integer", "Attempts made in all", wide=True),
        Column("Events", ".status.events", "integer", "Number of the last event", wide=True),
    ),
    max_name=MAX_LABEL,
    fixed=workflow.FIXED,
)

AGENT_TASK: Final = CustomResource(
    kind="AgentTask",
    plural="agenttasks",
    short_name="ptask",
    description="One unit of work, done by an agent in a pod: applied alone, or made by a Workflow.",
    spec=AgentTaskSpec,
    status=AgentTaskStatus,
    columns=(
        Column("Phase", ".status.phase", "string", "Where the task stands"),
        Column("Attempt", ".status.attempt", "integer", "Number of the newest attempt"),
        Column("Reason", ".status.reason", "string", "Why it is in this phase"),
        # A JSONPath union gives the first of its keys that exists: the label, or else the number.
        Column("Checkpoint", ".status.checkpoint['label','sequence']", "string", "The newest checkpoint"),
        _AGE,
        Column("Pod", ".status.podName", "string", "The newest attempt's pod", wide=True),
        Column("Progress", ".status.progress['message','percent']", "string", "What it is doing", wide=True),
        Column("Message", ".status['summary','message']", "string", "Why, for people", wide=True),
    ),
    max_name=MAX_LABEL,
    fixed=agenttask.FIXED,
)

AGENT_TEMPLATE: Final = CustomResource(
    kind="AgentTemplate",
    plural="agenttemplates",
    short_name="ptmpl",
    description="A named agent that steps and tasks refer to by `templateRef`.",
    spec=AgentTemplateSpec,
    status=None,
    columns=(Column("Image", ".spec.image", "string", "Container image"), _AGE),
    max_name=None,
)

WORKFLOW_TEMPLATE: Final = CustomResource(
    kind="WorkflowTemplate",
    plural="workflowtemplates",
    short_name="pwftmpl",
    description="A graph of steps with typed parameters that Workflows refer to by `templateRef`.",
    spec=WorkflowTemplateSpec,
    status=None,
    columns=(_AGE,),
    max_name=None,
)

WORKFLOW_SCHEDULE: Final = CustomResource(
    kind="WorkflowSchedule",
    plural="workflowschedules",
    short_name="psched",
    description="Makes a Workflow whenever a cron schedule says so.",
    spec=WorkflowScheduleSpec,
    status=WorkflowScheduleStatus,
    columns=(
        Column("Schedule", ".spec.schedule", "string", "When it makes a run"),
        Column("Suspended", ".spec.suspend", "boolean", "Whether it makes none for now"),
        Column("Last", ".status.lastScheduleTime", "date", "Time since it last made a run"),
        # kubectl shows a date as the time since then, and this time is in the future.
        Column("Next", ".status.nextScheduleTime", "string", "When it makes the next run"),
        _AGE,
        Column("Active", ".status.active[*].name", "string", "A run that is live", wide=True),
        Column("Message", ".status.message", "string", "Why it makes no runs", wide=True),
    ),
    max_name=MAX_SCHEDULE_NAME,
)

KINDS: Final = (WORKFLOW, AGENT_TASK, AGENT_TEMPLATE, WORKFLOW_TEMPLATE, WORKFLOW_SCHEDULE)


def resources_with(models: SpecModels) -> tuple[CustomResource, ...]:
    """The custom resources, with the spec models that know the step kinds of a registry."""
    specs = {WORKFLOW.kind: models.workflow, WORKFLOW_TEMPLATE.kind: models.workflow_template}
    return tuple(replace(resource, spec=specs.get(resource.kind, resource.spec)) for resource in KINDS)
