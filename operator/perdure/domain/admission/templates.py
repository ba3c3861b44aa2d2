"""The templates that a manifest may refer to: those of the cluster, or of files that are checked together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from perdure.api.agent import AgentContainer
from perdure.api.custom_resources import AGENT_TEMPLATE, WORKFLOW_TEMPLATE
from perdure.api.spec_models import SpecModels
from perdure.api.validation.parse import parse_agenttemplate, parse_workflowtemplate
from perdure.api.validation.problems import InvalidManifest, ManifestProblem
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.domain.admission.expression_sum import excess_problem


class Templates(Protocol):
    """The templates of one namespace, by name; None where there is none."""

    def agent(self, name: str) -> AgentContainer | None: ...

    def workflow(self, name: str) -> WorkflowTemplateSpec | None: ...

    @property
    def problems(self) -> tuple[ManifestProblem, ...]:
        """Problems of the templates that were asked for, each path led by the template's kind and name."""
        ...


@dataclass(frozen=True, slots=True)
class ParsedTemplates:
    """Templates that were parsed before."""

    agents: Mapping[str, AgentContainer] = field(default_factory=dict)
    workflows: Mapping[str, WorkflowTemplateSpec] = field(default_factory=dict)
    problems: tuple[ManifestProblem, ...] = ()

    def agent(self, name: str) -> AgentContainer | None:
        return self.agents.get(name)

    def workflow(self, name: str) -> WorkflowTemplateSpec | None:
        return self.workflows.get(name)


NO_TEMPLATES = ParsedTemplates()


class StoredTemplates:
    """Templates as the API server has them, each parsed when it is first asked for.

    A template may have been stored under another schema, so it can be faulty. A faulty AgentTemplate is
    replaced by one with which nothing else is wrong, so that its problems are reported once.
    """

    def __init__(self, find: Callable[[str, str], Mapping[str, Any] | None], models: SpecModels) -> None:
        """`find` gives the spec of a template by its resource's kind and its name."""
        self._find = find
        self._models = models
        self._agents: dict[str, AgentContainer | None] = {}
        self._problems: list[ManifestProblem] = []

    @property
    def problems(self) -> tuple[ManifestProblem, ...]:
        return tuple(self._problems)

    def agent(self, name: str) -> AgentContainer | None:
        if name not in self._agents:
            self._agents[name] = self._parse_agent(name)
        return self._agents[name]

    def workflow(self, name: str) -> WorkflowTemplateSpec | None:
        spec = self._find(WORKFLOW_TEMPLATE.kind, name)
        if spec is None:
            return None
        try:
            template = parse_workflowtemplate(_object(name, spec), self._models)
            _check_expressions(spec)
        except InvalidManifest as error:
            self._problems += _within(f"{WORKFLOW_TEMPLATE.kind} {name}", error)
            return None
        return template

    def _parse_agent(self, name: str) -> AgentContainer | None:
        spec = self._find(AGENT_TEMPLATE.kind, name)
        if spec is None:
            return None
        try:
            template = parse_agenttemplate(_object(name, spec))
            _check_expressions(spec)
        except InvalidManifest as error:
            self._problems += _within(f"{AGENT_TEMPLATE.kind} {name}", error)
            return AgentContainer(image=name)
        return template


def _check_expressions(spec: Mapping[str, Any]) -> None:
    if (problem := excess_problem(spec, "spec")) is not None:
        raise InvalidManifest((problem,))


def _object(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": dict(spec)}


def _within(what: str, error: InvalidManifest) -> Iterator[ManifestProblem]:
    for problem in error.problems:
        yield ManifestProblem(f"{what}: {problem.path}", problem.message)
