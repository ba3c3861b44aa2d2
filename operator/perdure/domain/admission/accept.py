"""Admission: all that can be known to be wrong before a run starts, and the run's snapshot.

The schema has refused what a schema can say. Admission checks the rest: templates, parameters, unknown
references, cycles and bad expressions. Its result is the snapshot of the run: a spec with every template
filled in, so that a later edit of a template changes no live run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from perdure.api.agent import Agent, AgentContainer
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.agenttemplate import AgentTemplateSpec
from perdure.api.base import JsonObject
from perdure.api.custom_resources import WORKFLOW
from perdure.api.graph import Graph, RunSettings, over_template
from perdure.api.policies import Retention
from perdure.api.spec_models import SpecModels
from perdure.api.step import Defaults
from perdure.api.validation.checked import Checked
from perdure.api.validation.parse import check_agenttask, check_workflow
from perdure.api.validation.problems import ManifestProblem
from perdure.api.validation.repair import MAX_FAULTS
from perdure.api.workflow import WorkflowSpec
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.domain.admission.agent_layers import check_agent, resolve_agent
from perdure.domain.admission.context import Admission, MissingTemplate
from perdure.domain.admission.expression_check import Findings, Scope, check_single, check_value
from perdure.domain.admission.expression_sum import excess_problem
from perdure.domain.admission.graph_check import analyze_graph
from perdure.domain.admission.parameters import check_parameters, fill_inputs
from perdure.domain.admission.step_check import effort
from perdure.domain.admission.templates import Templates

__all__ = [
    "Admission",
    "AdmissionResult",
    "ManifestProblem",
    "Refused",
    "TemplateMissing",
    "admit",
    "check_agent_task",
    "check_agent_template",
    "check_workflow_spec",
    "check_workflow_template",
]

_TASK = Scope(names=frozenset({"workflow"}))
#: What the expressions of a template may use depends on the step that uses it; so all names of any step.
_ANY_STEP = Scope(steps=None, failures=True).plus("item", "index", "last")


class Refused(Exception):
    """A manifest that can never run. Has all problems that could be found in one pass."""

    def __init__(self, problems: tuple[ManifestProblem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class TemplateMissing(Exception):
    """Templates that do not exist, perhaps not yet."""

    def __init__(self, references: tuple[MissingTemplate, ...]) -> None:
        super().__init__("; ".join(map(str, references)))
        self.references = references


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionResult:
    """The outcome of an admission. The snapshot is complete only without problems and missing templates."""

    snapshot: JsonObject
    problems: tuple[ManifestProblem, ...]
    missing: tuple[MissingTemplate, ...]

    def accepted(self) -> JsonObject:
        """The snapshot. Raises Refused, or TemplateMissing if templates are all that is missing."""
        if self.problems:
            raise Refused(self.problems)
        if self.missing:
            raise TemplateMissing(self.missing)
        return self.snapshot


def admit(
    kind: str, manifest: Mapping[str, Any], *, models: SpecModels, templates: Templates
) -> AdmissionResult:
    """The admission of a Workflow or a standalone AgentTask (a run of one step whose name is '')."""
    admission = Admission(models=models, templates=templates)
    if kind == WORKFLOW.kind:
        return check_workflow_spec(check_workflow(manifest, models), admission)
    return check_agent_task(check_agenttask(manifest), admission)


def check_workflow_spec(checked: Checked[WorkflowSpec], admission: Admission) -> AdmissionResult:
    """All problems of a Workflow, and its snapshot."""
    spec = checked.spec
    if spec is None or _exceeds(checked, admission):
        return _result({}, checked, admission)
    if spec.template_ref is None:
        body = analyze_graph(checked, admission)
        return _result(_snapshot(spec, spec, dict(spec.inputs), body), checked, admission)
    name, path = spec.template_ref, checked.root
    template = admission.workflow_template(name, checked.where(f"{path}.templateRef"))
    if template is None:
        return _result({}, checked, admission)
    place = f"WorkflowTemplate {name}: spec"
    inputs = dict(spec.inputs)
    if template.parameters is not None:
        faults = check_parameters(template.parameters, f"{place}.parameters")
        if not faults:
            inputs, faults = fill_inputs(template.parameters, inputs, checked.where(f"{path}.inputs"))
        admission.findings.extend(faults)
    body = analyze_graph(Checked(spec=template, problems=()), admission, path=place)
    return _result(_snapshot(spec, template, inputs, body), checked, admission)


def check_workflow_template(checked: Checked[WorkflowTemplateSpec], admission: Admission) -> AdmissionResult:
    """All problems of a WorkflowTemplate by itself."""
    spec = checked.spec
    if spec is None or _exceeds(checked, admission):
        return _result({}, checked, admission)
    place = f"{checked.root}.parameters"
    if spec.parameters is not None and not any(it.path.startswith(place) for it in checked.problems):
        admission.findings.extend(check_parameters(spec.parameters, checked.where(place)))
    body = analyze_graph(checked, admission)
    return _result(_snapshot(spec, spec, {}, body), checked, admission)


def check_agent_template(checked: Checked[AgentTemplateSpec], admission: Admission) -> AdmissionResult:
    """All problems of an AgentTemplate, whichever step may use it."""
    if checked.spec is not None and not _exceeds(checked, admission):
        agent = Agent.model_validate(checked.spec.manifest())
        resolved = resolve_agent(None, agent, _no_template, path=checked.root, defaults_path=checked.root)
        findings = Findings(admission.findings.suggestions)
        check_agent(resolved, _ANY_STEP, findings)
        admission.findings.extend(findings.moved(checked.where))
    return _result({}, checked, admission)


def check_agent_task(checked: Checked[AgentTaskSpec], admission: Admission) -> AdmissionResult:
    """All problems of a standalone AgentTask, and its snapshot."""
    spec, findings = checked.spec, Findings(admission.findings.suggestions)
    if spec is None or _exceeds(checked, admission):
        return _result({}, checked, admission)
    path = checked.root
    place = f"{path}.agent"

    def find(name: str, reference: str) -> AgentContainer | None:
        return admission.agent_template(name, checked.where(reference))

    agent = resolve_agent(None, spec.agent, find, path=place, defaults_path=place)
    if agent.found and agent.template is not None and "image" not in agent.block:
        findings.add(f"{place}.image", "an image is needed, here or in a template")
    check_value(spec.input, f"{path}.input", _TASK, findings)
    check_agent(agent, _TASK, findings)
    tries = effort(spec, Defaults(), lambda name: True)
    if "on" in tries["retry"]:
        check_single(tries["retry"]["on"], f"{path}.retry.on", _TASK.plus("attempt"), findings)
    admission.findings.extend(findings.moved(checked.where))
    step = {
        "name": "",
        "dependsOn": [],
        "sees": [],
        "continueOnFailure": False,
        "agent": agent.block,
        "input": {} if spec.input is None else spec.input,
        **tries,
    }
    snapshot = {
        "inputs": {},
        **_settings(RunSettings()),
        "retention": _retention(spec.retention),
        "steps": [step],
        "finally": [],
        "outputs": {},
    }
    return _result(snapshot, checked, admission)


def _no_template(name: str, path: str) -> None:
    return None  # An AgentTemplate refers to no other.


def _exceeds(checked: Checked[Any], admission: Admission) -> bool:
    """True, and a problem, if the expressions of an object are too many to be compiled."""
    raw = {} if checked.repair is None else checked.repair.raw
    problem = excess_problem(raw, checked.root)
    if problem is not None:
        admission.findings.extend([problem])
    return problem is not None


def _result(snapshot: JsonObject, checked: Checked[Any], admission: Admission) -> AdmissionResult:
    """The result. A field with a problem of parsing gets no further ones; those of templates come last."""
    reported = {problem.path for problem in checked.problems}
    found = (problem for problem in admission.findings.problems if problem.path not in reported)
    return AdmissionResult(
        snapshot=snapshot,
        problems=(*checked.problems, *_limited(found, checked), *admission.templates.problems),
        missing=tuple(admission.missing),
    )


def _limited(found: Iterable[ManifestProblem], checked: Checked[Any]) -> Iterator[ManifestProblem]:
    """The findings up to the limit of all problems, and one that says how many more there are."""
    left = max(0, MAX_FAULTS - len(checked.problems))
    number = 0
    for number, problem in enumerate(found, start=1):
        if number <= left:
            yield problem
    if number > left:
        yield ManifestProblem(checked.root, f"{number - left} more faults are left out")


def _snapshot(own: Graph, graph: Graph, inputs: JsonObject, body: JsonObject) -> JsonObject:
    """The snapshot of a run: its own fields win over those of its template."""
    mine = own.model_fields_set & over_template(RunSettings)
    given = {name: value for name, value in _settings(own, mine).items() if value is not None}
    return {
        "inputs": inputs,
        **_settings(graph),
        **given,
        "retention": _retention(graph.retention) | own.retention.manifest(),
        **body,
    }


def _settings(settings: RunSettings, names: AbstractSet[str] = RunSettings.model_fields.keys()) -> JsonObject:
    return settings.model_dump(mode="json", by_alias=True, include=set(names))


def _retention(retention: Retention) -> JsonObject:
    return retention.model_dump(by_alias=True)
