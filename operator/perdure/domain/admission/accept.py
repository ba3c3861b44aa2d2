"""Acceptance: everything that can be known to be wrong before a run starts.

What the schema could say is said when a manifest is applied; here is the rest: templates, parameters, unknown
references, cycles and bad expressions. The outcome of acceptance is the run's snapshot: a spec with every
template filled in, so that a later edit changes no live run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.api.agent import Agent, AgentContainer
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.agenttemplate import AgentTemplateSpec
from perdure.api.base import JsonObject
from perdure.api.graph import Graph
from perdure.api.policies import Retention
from perdure.api.step import Defaults
from perdure.api.validation.checked import Checked
from perdure.api.validation.problems import ManifestProblem
from perdure.api.workflow import WorkflowSpec
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.domain.admission.agent_layers import check_agent, resolve_agent, template_of
from perdure.domain.admission.expression_check import Findings, Scope, check_single, check_value
from perdure.domain.admission.graph_check import Examination, examine_graph
from perdure.domain.admission.parameters import check_parameters, fill_inputs
from perdure.domain.admission.step_check import effort

__all__ = [
    "Examination",
    "ManifestProblem",
    "Refused",
    "TemplateMissing",
    "Verdict",
    "accept_task",
    "accept_workflow",
    "examine_agent_template",
    "examine_task",
    "examine_workflow",
    "examine_workflow_template",
    "template_names",
]

_TASK = Scope(names=frozenset({"workflow"}))
#: What the expressions of a template may use depends on the step that uses it: all that any step may.
_ANY_STEP = Scope(steps=None, failures=True).plus("item", "index", "last")


class Refused(Exception):
    """The manifest can never run. All problems that could be found in one pass."""

    def __init__(self, problems: tuple[ManifestProblem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class TemplateMissing(Exception):
    """Templates that do not exist, perhaps not yet."""

    def __init__(self, references: tuple[ManifestProblem, ...]) -> None:
        super().__init__("; ".join(map(str, references)))
        self.references = references


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be said of a manifest. The snapshot is whole only if there are neither problems nor gaps."""

    snapshot: JsonObject
    problems: tuple[ManifestProblem, ...]
    #: References to templates that do not exist, perhaps not yet.
    missing: tuple[ManifestProblem, ...]

    def accepted(self) -> JsonObject:
        """The snapshot. Raises Refused, or TemplateMissing if only templates are wanting."""
        if self.problems:
            raise Refused(self.problems)
        if self.missing:
            raise TemplateMissing(self.missing)
        return self.snapshot


def template_names(
    spec: WorkflowSpec | AgentTaskSpec, workflow_template: WorkflowTemplateSpec | None = None
) -> frozenset[str]:
    """Names of the AgentTemplates that a spec needs, by way of the WorkflowTemplate that it names, too."""
    names = {spec.agent.template_ref} if isinstance(spec, AgentTaskSpec) else set()
    if isinstance(spec, Graph):
        graph = workflow_template or spec
        names = {
            template_of(graph.defaults.agent, step.agent)
            for step in (*graph.steps, *graph.finally_)
            if step.wait is None and step.workflow is None
        }
    return frozenset(name for name in names if name is not None)


def accept_workflow(
    spec: WorkflowSpec,
    templates: Mapping[str, AgentContainer],
    workflow_templates: Mapping[str, WorkflowTemplateSpec] | None = None,
) -> JsonObject:
    """The run's snapshot. Raises Refused, or TemplateMissing if only templates are wanting."""
    examination = Examination(templates=templates, workflow_templates=workflow_templates or {})
    return examine_workflow(Checked(spec=spec, problems=()), examination).accepted()


def accept_task(spec: AgentTaskSpec, templates: Mapping[str, AgentContainer]) -> JsonObject:
    """The snapshot of a standalone AgentTask: a run of one step whose name is ''. Raises as above."""
    return examine_task(Checked(spec=spec, problems=()), Examination(templates=templates)).accepted()


def examine_workflow(checked: Checked[WorkflowSpec], examination: Examination) -> Verdict:
    """All that is wrong with a Workflow, and its snapshot."""
    spec = checked.spec
    if spec is None:
        return _verdict({}, checked, examination)
    if spec.template_ref is None:
        body = examine_graph(checked, examination)
        return _verdict(_snapshot(spec, spec, dict(spec.inputs), body), checked, examination)
    name, path = spec.template_ref, checked.root
    template = examination.workflow_templates.get(name)
    if template is None:
        examination.lack(checked.where(f"{path}.templateRef"), "WorkflowTemplate", name)
        return _verdict({}, checked, examination)
    place = f"WorkflowTemplate {name}: spec"
    inputs = dict(spec.inputs)
    if template.parameters is not None:
        faults = check_parameters(template.parameters, f"{place}.parameters")
        if not faults:
            inputs, faults = fill_inputs(template.parameters, inputs, checked.where(f"{path}.inputs"))
        examination.findings.extend(faults)
    body = examine_graph(Checked(spec=template, problems=()), examination, path=place)
    return _verdict(_snapshot(spec, template, inputs, body), checked, examination)


def examine_workflow_template(checked: Checked[WorkflowTemplateSpec], examination: Examination) -> Verdict:
    """All that is wrong with a WorkflowTemplate by itself."""
    spec = checked.spec
    if spec is None:
        return _verdict({}, checked, examination)
    place = f"{checked.root}.parameters"
    if spec.parameters is not None and not any(it.path.startswith(place) for it in checked.problems):
        examination.findings.extend(check_parameters(spec.parameters, checked.where(place)))
    body = examine_graph(checked, examination)
    return _verdict(_snapshot(spec, spec, {}, body), checked, examination)


def examine_agent_template(checked: Checked[AgentTemplateSpec], examination: Examination) -> Verdict:
    """All that is wrong with an AgentTemplate, whichever step may use it."""
    if checked.spec is not None:
        agent = Agent.model_validate(checked.spec.manifest())
        resolved = resolve_agent(None, agent, {}, path=checked.root, defaults_path=checked.root)
        findings = Findings()
        check_agent(resolved, _ANY_STEP, findings)
        examination.findings.extend(findings.moved(checked.where))
    return _verdict({}, checked, examination)


def examine_task(checked: Checked[AgentTaskSpec], examination: Examination) -> Verdict:
    """All that is wrong with a standalone AgentTask, and its snapshot."""
    spec, findings = checked.spec, Findings()
    if spec is None:
        return _verdict({}, checked, examination)
    path = checked.root
    place = f"{path}.agent"
    agent = resolve_agent(None, spec.agent, examination.templates, path=place, defaults_path=place)
    if not agent.found:
        assert agent.template is not None
        examination.lack(checked.where(agent.reference), "AgentTemplate", agent.template)
    elif agent.template is not None and "image" not in agent.block:
        findings.add(f"{place}.image", "an image is needed, here or in a template")
    check_value(spec.input, f"{path}.input", _TASK, findings)
    check_agent(agent, _TASK, findings)
    tries = effort(spec, Defaults())
    if "on" in tries["retry"]:
        check_single(tries["retry"]["on"], f"{path}.retry.on", _TASK.plus("attempt"), findings)
    examination.findings.extend(findings.moved(checked.where))
    step = {
        "name": "",
        "dependsOn": [],
        "sees": [],
        "continueOnFailure": False,
        "agent": agent.block,
        "input": {} if spec.input is None else spec.input,
        **tries,
    }
    graph: JsonObject = {"inputs": {}, "parallelism": None, "priority": 0, "timeout": None}
    policy = {"failurePolicy": "FinishRunning", "retention": _retention(spec.retention)}
    snapshot = {**graph, **policy, "steps": [step], "finally": [], "outputs": {}}
    return _verdict(snapshot, checked, examination)


def _verdict(snapshot: JsonObject, checked: Checked[Any], examination: Examination) -> Verdict:
    """What parsing has found comes first; of the same field nothing more is said."""
    told = {problem.path for problem in checked.problems}
    found = (problem for problem in examination.findings.problems if problem.path not in told)
    return Verdict(
        snapshot=snapshot,
        problems=(*checked.problems, *found),
        missing=tuple(examination.missing),
    )


def _snapshot(own: Graph, graph: Graph, inputs: JsonObject, body: JsonObject) -> JsonObject:
    """The snapshot of a run: what it says itself wins over what its template says."""
    given = graph.model_dump(by_alias=True) | own.manifest()
    return {
        "inputs": inputs,
        "parallelism": given["parallelism"],
        "priority": given["priority"],
        "timeout": given["timeout"],
        "failurePolicy": graph.failure_policy,
        "retention": _retention(graph.retention) | own.retention.manifest(),
        **body,
    }


def _retention(retention: Retention) -> JsonObject:
    return retention.model_dump(by_alias=True)
