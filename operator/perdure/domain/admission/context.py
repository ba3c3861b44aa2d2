"""What the checks of a manifest share: what is known besides the manifest, and what was found.

`Admission` is that of the whole manifest, `GraphContext` that of one graph of steps, of which a manifest may
contain several inside each other, and `StepContext` that of one step, which a step kind gets for its part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from perdure.api.agent import Agent, AgentContainer
from perdure.api.base import JsonObject
from perdure.api.custom_resources import AGENT_TEMPLATE, WORKFLOW_TEMPLATE
from perdure.api.graph import Graph
from perdure.api.spec_models import SpecModels
from perdure.api.step import Defaults
from perdure.api.validation.checked import Checked
from perdure.api.validation.problems import ManifestProblem, field_names
from perdure.api.workflow import WorkflowSpec
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.domain.admission.expression_check import Findings, Scope
from perdure.domain.admission.templates import NO_TEMPLATES, Templates

#: Fields of the objects that hold or surround a step, by the last part of their location.
_FIELDS: Final = {
    "": {*field_names(WorkflowSpec), *field_names(WorkflowTemplateSpec)},
    "defaults": set(field_names(Defaults)),
    "agent": set(field_names(Agent)),
}


@dataclass(frozen=True, slots=True)
class MissingTemplate(ManifestProblem):
    """A reference to a template that does not exist, perhaps not yet."""

    kind: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(slots=True, kw_only=True)
class Admission:
    """The admission of one manifest."""

    models: SpecModels
    templates: Templates = NO_TEMPLATES
    #: Whether templates that child workflows refer to are needed now. A run finds them when the child starts.
    children: bool = False
    #: The message about a template that does not exist.
    absence: str = "there is no {kind} {name!r} in this namespace; apply it"
    findings: Findings = field(default_factory=Findings)
    #: In the order in which the references were found.
    missing: dict[MissingTemplate, None] = field(default_factory=dict)

    def agent_template(self, name: str, path: str) -> AgentContainer | None:
        """The AgentTemplate to which `path` refers; noted as missing if it does not exist."""
        template = self.templates.agent(name)
        if template is None:
            self._add_missing(path, AGENT_TEMPLATE.kind, name)
        return template

    def workflow_template(self, name: str, path: str) -> WorkflowTemplateSpec | None:
        """The same of a WorkflowTemplate."""
        template = self.templates.workflow(name)
        if template is None:
            self._add_missing(path, WORKFLOW_TEMPLATE.kind, name)
        return template

    def _add_missing(self, path: str, kind: str, name: str) -> None:
        message = self.absence.format(kind=kind, name=name)
        self.missing[MissingTemplate(path, message, kind, name)] = None


@dataclass(slots=True)
class GraphContext:
    """One graph while it is checked."""

    graph: Graph
    checked: Checked[Graph]
    path: str
    #: That of this graph, whose findings have the paths of the repaired spec.
    admission: Admission
    #: That of the whole manifest.
    outer: Admission
    scopes: dict[str, Scope]

    def faulty(self, path: str) -> bool:
        """True if parsing has found a problem of a field, or inside it."""
        where = self.checked.where(path)
        return any(
            problem.path == where or problem.path.startswith((f"{where}.", f"{where}["))
            for problem in self.checked.problems
        )

    def lost(self, *location: int | str) -> bool:
        """True if an object had an unknown field, which may have been meant for any known one."""
        repair = self.checked.repair
        if repair is None or not repair.dropped:
            return False
        origin = repair.origin(location)
        name = str(location[-1]) if location else ""
        known = _FIELDS.get(name) or field_names(self.admission.models.step)
        return any(entry not in known for entry in repair.dropped_in(origin))

    def altered(self, *location: int | str) -> bool:
        """True if error recovery has dropped or replaced the value at a location."""
        repair = self.checked.repair
        if repair is None:
            return False
        origin = repair.origin(location[:-1]) + location[-1:]
        return origin in repair.dropped or origin in repair.replaced


@dataclass(slots=True, kw_only=True)
class StepContext:
    """One step while it is checked: what its kind needs besides the step."""

    graph: GraphContext
    #: The step in the graph, such as ("steps", 2).
    at: tuple[str, int]
    #: The step in the manifest, such as `spec.steps[2]`.
    path: str
    #: What the expressions of the step's block may use.
    scope: Scope

    @property
    def defaults(self) -> Defaults:
        return self.graph.graph.defaults

    @property
    def defaults_path(self) -> str:
        return f"{self.graph.path}.defaults"

    @property
    def admission(self) -> Admission:
        return self.graph.admission

    @property
    def findings(self) -> Findings:
        return self.graph.admission.findings


@dataclass(slots=True)
class CheckedStep:
    """What a run needs of a step, or the part of it that the step's kind adds."""

    snapshot: JsonObject
    #: The steps that expressions refer to, each with the path of a field that does.
    needed: dict[str, str] = field(default_factory=dict)
