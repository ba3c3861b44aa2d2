"""The kinds of `perdure.dev`: names, models, and what `kubectl get` shows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel

from perdure.api import GROUP
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.agenttemplate import AgentTemplateSpec
from perdure.api.status import AgentTaskStatus, WorkflowStatus
from perdure.api.workflow import WorkflowSpec

CATEGORY: Final = "perdure"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; a wide one shows with `-o wide` only."""

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    description: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One custom resource. `run_name` holds its name to a DNS label, since subjects and pods carry it."""

    kind: str
    plural: str
    short_name: str
    description: str
    spec: type[BaseModel]
    status: type[BaseModel] | None
    columns: tuple[Column, ...]
    run_name: bool

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def crd_name(self) -> str:
        """Name of its CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


_AGE = Column("Age", ".metadata.creationTimestamp", "date", "Time since it was applied")

WORKFLOW: Final = Kind(
    kind="Workflow",
    plural="workflows",
    short_name="pwf",
    description="One run of a graph of steps, each of which is done by agents in pods.",
    spec=WorkflowSpec,
    status=WorkflowStatus,
    columns=(
        Column("Phase", ".status.phase", "string", "Where the run stands"),
        Column("Progress", ".status.progress", "string", "What has finished, of what is known"),
        Column("Message", ".status.message", "string", "What it waits for, or why it ended"),
        _AGE,
        Column("Attempts", ".status.attempts", "integer", "Attempts made in all", wide=True),
        Column("Events", ".status.events", "integer", "Number of the last event", wide=True),
    ),
    run_name=True,
)

AGENT_TASK: Final = Kind(
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
        # A union takes the first of its keys that is there: the label, or else the number.
        Column("Checkpoint", ".status.checkpoint['label','sequence']", "string", "The newest checkpoint"),
        _AGE,
        Column("Pod", ".status.podName", "string", "The newest attempt's pod", wide=True),
        Column("Progress", ".status.progress['message','percent']", "string", "What it is doing", wide=True),
        Column("Message", ".status.message", "string", "Why, for people", wide=True),
    ),
    run_name=True,
)

AGENT_TEMPLATE: Final = Kind(
    kind="AgentTemplate",
    plural="agenttemplates",
    short_name="ptmpl",
    description="A named agent that steps and tasks refer to by `templateRef`.",
    spec=AgentTemplateSpec,
    status=None,
    columns=(Column("Image", ".spec.image", "string", "Container image"), _AGE),
    run_name=False,
)

KINDS: Final = (WORKFLOW, AGENT_TASK, AGENT_TEMPLATE)
