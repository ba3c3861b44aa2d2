"""A graph of steps as a manifest has it: every fault found in one pass, and what the run is to know.

The same is asked of a Workflow, of a WorkflowTemplate and of a Workflow written out within a step; and also
of what parsing has mended, so that a person hears of all faults at once, each of them told once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from perdure.api.agent import Agent, AgentContainer
from perdure.api.base import JsonObject
from perdure.api.graph import Graph
from perdure.api.step import ChildWorkflow, Defaults, Step
from perdure.api.validation.checked import Checked
from perdure.api.validation.parse import check_inline_workflow
from perdure.api.validation.problems import ManifestProblem, field_names
from perdure.api.workflow import WorkflowSpec
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.domain.admission.agent_layers import ResolvedAgent, resolve_agent
from perdure.domain.admission.expression_check import Findings, Scope, check_value, too_late, unknown_step
from perdure.domain.admission.parameters import check_literals
from perdure.domain.admission.step_check import CheckedStep, check_step
from perdure.domain.graph import Cycle, topological_order

#: Cycles of one graph that are told: a graph where everything waits for everything has very many.
_TOLD_CYCLES: Final = 10
#: What can stand in the objects that steps are told by.
_FIELDS: Final = {
    "": {*field_names(WorkflowSpec), *field_names(WorkflowTemplateSpec)},
    "step": set(field_names(Step)),
    "defaults": set(field_names(Defaults)),
    "agent": set(field_names(Agent)),
}


@dataclass(slots=True, kw_only=True)
class Examination:
    """What is known beside the manifest, and what has been found."""

    templates: Mapping[str, AgentContainer]
    workflow_templates: Mapping[str, WorkflowTemplateSpec] = field(default_factory=dict)
    #: Whether templates of child workflows count too. A run looks for them when the child starts.
    children: bool = False
    #: What to say of a template that is not there.
    absence: str = "there is no {kind} {name!r} in this namespace; apply it"
    findings: Findings = field(default_factory=Findings)
    #: References to templates that do not exist, perhaps not yet.
    missing: dict[ManifestProblem, None] = field(default_factory=dict)

    def lack(self, path: str, kind: str, name: str) -> None:
        self.missing[ManifestProblem(path, self.absence.format(kind=kind, name=name))] = None


@dataclass(slots=True)
class _Level:
    """One graph while it is looked at."""

    graph: Graph
    checked: Checked[Graph]
    path: str
    #: That of this graph, in whose problems paths are those of the mended spec.
    examination: Examination
    #: That of the whole manifest.
    outer: Examination
    scopes: dict[str, Scope]

    def faulty(self, path: str) -> bool:
        """True if parsing has found something wrong with a field, or in it."""
        where = self.checked.where(path)
        return any(
            problem.path == where or problem.path.startswith((f"{where}.", f"{where}["))
            for problem in self.checked.problems
        )

    def lost(self, *location: int | str) -> bool:
        """True if the object at a place had a field that nobody knows: it may have been meant for any."""
        draft = self.checked.draft
        if draft is None or not draft.dropped:
            return False
        origin = draft.origin(location)
        known = _FIELDS.get(str(location[-1]) if location else "", _FIELDS["step"])
        return any(at[:-1] == origin and at[-1] not in known for at in draft.dropped)

    def altered(self, *location: int | str) -> bool:
        """True if parsing has left out or replaced what is at a place."""
        draft = self.checked.draft
        if draft is None:
            return False
        origin = draft.origin(location[:-1]) + location[-1:]
        return origin in draft.dropped or origin in draft.replaced


def examine_graph(checked: Checked[Graph], examination: Examination, *, path: str = "") -> JsonObject:
    """Find all faults of a graph beyond those of parsing. Returns its steps, finally steps and outputs.

    `path` is where it stands if that is not in the manifest that was parsed.
    """
    graph = checked.spec
    assert graph is not None, "nothing can be looked at"
    own = replace(examination, findings=Findings(), missing={})
    level = _Level(graph, checked, path or checked.root, own, examination, {})
    main, last = _names(level, "steps", graph.steps), _names(level, "finally", graph.finally_)
    complete = _complete(level, "steps")
    level.scopes = {
        "steps": Scope(steps=main, too_late=frozenset(last), complete=complete),
        "finally": Scope(steps=main | last, failures=True, complete=complete and _complete(level, "finally")),
    }
    made: JsonObject = {}
    for part, steps, among in (("steps", graph.steps, main), ("finally", graph.finally_, last)):
        made[part] = []
        waits: dict[str, dict[str, str]] = {}
        for position, step in enumerate(steps):
            where = f"{level.path}.{part}[{position}]"
            examined = _examine_step(level, step, (part, position), level.scopes[part])
            sees = examined.needed | _dependencies(step, where, level.scopes[part], own.findings)
            waits[step.name] = {name: field for name, field in sees.items() if name in among}
            order = {"dependsOn": sorted(waits[step.name]), "sees": sorted(sees)}
            made[part].append({"name": step.name, **order, **examined.snapshot})
        _find_cycles(waits, {step.name: step for step in steps}, own.findings)
    check_value(graph.outputs, f"{level.path}.outputs", level.scopes["finally"], own.findings)
    made["outputs"] = dict(graph.outputs)
    examination.findings.extend(own.findings.moved(checked.where))
    for problem in own.missing:
        examination.missing[ManifestProblem(checked.where(problem.path), problem.message)] = None
    return made


def _names(level: _Level, part: str, steps: list[Step]) -> dict[str, bool | None]:
    """The names of steps as written, and whether they have `forEach`; None if that cannot be told."""
    written = level.checked.names.steps if part == "steps" else level.checked.names.finally_
    names: dict[str, bool | None] = {}
    for position, step in enumerate(steps):
        if level.checked.draft is None or step.name in written:
            unclear = level.lost(part, position) or level.altered(part, position, "forEach")
            names[step.name] = None if unclear else step.for_each is not None
    return names | {name: None for name in sorted(written) if name not in names}


def _complete(level: _Level, part: str) -> bool:
    """True if no step of a list can have a name that is not known."""
    draft = level.checked.draft
    if draft is None:
        return True
    steps = draft.get((part,))
    if not steps:
        return part == "finally" and not level.lost()
    return level.checked.names.complete or (
        isinstance(steps, list)
        and all(
            isinstance(step, dict) and isinstance(draft.get((part, position, "name")), str)
            for position, step in enumerate(steps)
        )
    )


def _examine_step(level: _Level, step: Step, at: tuple[str, int], scope: Scope) -> CheckedStep:
    graph, examination = level.graph, level.examination
    where = f"{level.path}.{at[0]}[{at[1]}]"
    agent = None
    if step.wait is None and step.workflow is None:
        agent = resolve_agent(
            graph.defaults.agent,
            step.agent,
            examination.templates,
            path=f"{where}.agent",
            defaults_path=f"{level.path}.defaults.agent",
        )
        _check_container(level, agent, at, where)
    checked = check_step(
        step,
        agent,
        defaults=graph.defaults,
        path=where,
        defaults_path=f"{level.path}.defaults",
        scope=scope,
        findings=examination.findings,
        uncertain=level.lost(*at),
    )
    if step.workflow is not None:
        _examine_child(level, step.workflow, f"{where}.workflow")
    return checked


def _check_container(level: _Level, agent: ResolvedAgent, at: tuple[str, int], where: str) -> None:
    if not agent.found:
        assert agent.template is not None
        level.examination.lack(agent.reference, "AgentTemplate", agent.template)
    elif "image" not in agent.block and not level.faulty(f"{where}.agent"):
        # That there is neither image nor template is seen when the manifest is parsed, if that is certain.
        places: list[tuple[int | str, ...]] = [at, (*at, "agent"), ("defaults",), ("defaults", "agent")]
        if level.graph.defaults.agent is None:
            places.append(())
        if agent.template is None and any(level.lost(*place) for place in places):
            return
        message = "an image is needed, here, in defaults.agent or in a template"
        level.examination.findings.add(f"{where}.agent.image", message)


def _examine_child(level: _Level, child: ChildWorkflow, path: str) -> None:
    """A child is a run of its own, with templates of its own; its faults are the parent's all the same."""
    if child.spec is not None:
        where = level.checked.where(f"{path}.spec")
        # Its problems were told with those of the whole.
        checked = level.checked.inner.get(where) or check_inline_workflow(child.spec, f"{path}.spec")
        if checked.spec is None:
            return
        outer = level.outer
        examine_graph(checked, outer if outer.children else replace(outer, templates={}, missing={}))
        return
    examination = level.examination
    if child.template_ref is not None and examination.children:
        template = examination.workflow_templates.get(child.template_ref)
        if template is None:
            examination.lack(f"{path}.templateRef", "WorkflowTemplate", child.template_ref)
        elif template.parameters is not None:
            examination.findings.extend(check_literals(template.parameters, child.inputs, f"{path}.inputs"))


def _dependencies(step: Step, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    """The steps that `dependsOn` names, each with its entry."""
    named: dict[str, str] = {}
    assert scope.steps is not None
    for position, name in enumerate(step.depends_on):
        where = f"{path}.dependsOn[{position}]"
        if name in scope.steps:
            named[name] = where
        elif name in scope.too_late:
            findings.add(where, too_late(name))
        elif scope.complete:
            findings.add(where, unknown_step(name, scope.steps))
    return named


def _find_cycles(waits: Mapping[str, dict[str, str]], steps: Mapping[str, Step], findings: Findings) -> None:
    edges = {
        name: {other: where for other, where in needed.items() if other in waits}
        for name, needed in waits.items()
    }
    for _ in range(_TOLD_CYCLES):
        try:
            topological_order({name: needed.keys() for name, needed in edges.items()})
            return
        except Cycle as cycle:
            first, second = (cycle.steps * 2)[:2]
            message = f"the steps wait for each other: {cycle}; break the cycle"
            if first == second:
                repeats = steps[first].repeat is not None
                hint = "the newest output of its repeat is `last`" if repeats else "refer to other steps"
                message = f"step {first!r} cannot wait for itself; {hint}"
            findings.add(edges[first][second], message)
            # Without this wait there may be another cycle.
            del edges[first][second]
