"""Acceptance: everything that can be known to be wrong before a run starts.

What the schema could say is said when a manifest is applied; here is the rest: templates, unknown references,
cycles and bad expressions. The outcome of acceptance is the run's snapshot: a spec with every template filled
in, so that a later edit changes no live run.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from perdure.api.agent import Agent, AgentContainer, Retry
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.base import JsonObject
from perdure.api.workflow import MAX_ITEMS, Step, WorkflowSpec
from perdure.domain.cel import ExpressionError
from perdure.domain.graph import Cycle, topological_order
from perdure.domain.templating import has_expression, parse_text, walk_strings

WORKFLOW_NAMES = frozenset({"inputs", "steps", "workflow"})
TASK_NAMES = WORKFLOW_NAMES | {"item", "index"}


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in a manifest: where, and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Refused(Exception):
    """The manifest can never run. All problems that could be found in one pass."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class TemplateMissing(Exception):
    """Templates that do not exist, perhaps not yet."""

    def __init__(self, references: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, references)))
        self.references = references


def template_names(spec: WorkflowSpec | AgentTaskSpec) -> frozenset[str]:
    """Names of the AgentTemplates that a spec needs."""
    if isinstance(spec, AgentTaskSpec):
        agents = [spec.agent]
    else:
        agents = [_overlay(spec.defaults.agent, step.agent) for step in spec.steps]
    return frozenset(agent.template_ref for agent in agents if agent.template_ref)


def accept_workflow(spec: WorkflowSpec, templates: Mapping[str, AgentContainer]) -> JsonObject:
    """The run's snapshot. Raises Refused, or TemplateMissing if only templates are wanting."""
    problems: list[Problem] = []
    missing: list[Problem] = []
    names = [step.name for step in spec.steps]
    dependencies: dict[str, set[str]] = {}
    steps: list[JsonObject] = []
    for position, step in enumerate(spec.steps):
        path = f"spec.steps[{position}]"
        agent, gap = _resolve(_overlay(spec.defaults.agent, step.agent), templates, f"{path}.agent")
        missing += gap
        if agent is not None and agent.image is None and not gap:
            problems.append(
                Problem(f"{path}.agent.image", "an image is needed, here, in defaults.agent or in a template")
            )
        needed = set(step.depends_on)
        for dependency_position, dependency in enumerate(step.depends_on):
            if dependency not in names:
                where = f"{path}.dependsOn[{dependency_position}]"
                problems.append(Problem(where, _unknown_step(dependency, names)))
        needed |= _check_step(step, agent, path, names, problems)
        dependencies[step.name] = {name for name in needed if name in names}
        steps.append(_snapshot_step(spec, step, agent, sorted(dependencies[step.name])))
    for where, text in walk_strings(spec.outputs, "spec.outputs"):
        _check_text(text, where, WORKFLOW_NAMES, names, problems)
    try:
        topological_order(dependencies)
    except Cycle as cycle:
        position = names.index(cycle.steps[0])
        problems.append(
            Problem(
                f"spec.steps[{position}].dependsOn",
                f"the steps wait for each other: {cycle}; break the cycle",
            )
        )
    if problems:
        raise Refused(tuple(problems))
    if missing:
        raise TemplateMissing(tuple(missing))
    return {
        "inputs": dict(spec.inputs),
        "parallelism": spec.parallelism,
        "retention": spec.retention.manifest() or {"ttlAfterFinished": spec.retention.ttl_after_finished},
        "steps": steps,
        "outputs": dict(spec.outputs),
    }


def accept_task(spec: AgentTaskSpec, templates: Mapping[str, AgentContainer]) -> JsonObject:
    """The snapshot of a standalone AgentTask: a run of one step whose name is ''. Raises as above."""
    problems: list[Problem] = []
    agent, gap = _resolve(spec.agent, templates, "spec.agent")
    if agent is not None and agent.image is None and not gap:
        problems.append(Problem("spec.agent.image", "an image is needed, here or in a template"))
    for path, value in (("spec.agent", agent.manifest() if agent else None), ("spec.input", spec.input)):
        for where, text in walk_strings(value, path):
            _check_text(text, where, frozenset({"workflow"}), (), problems)
    if problems:
        raise Refused(tuple(problems))
    if gap:
        raise TemplateMissing(tuple(gap))
    assert agent is not None
    return {
        "inputs": {},
        "parallelism": None,
        "retention": {"ttlAfterFinished": spec.retention.ttl_after_finished},
        "steps": [
            {
                "name": "",
                "dependsOn": [],
                "agent": agent.manifest(),
                "input": spec.input if spec.input is not None else {},
                "retry": {"limit": (spec.retry or Retry()).limit},
            }
        ],
        "outputs": {},
    }


def _overlay(below: Agent | None, above: Agent | None) -> Agent:
    """`above`, with what it leaves out taken from `below`. Environments are joined by name."""
    if below is None:
        return above or Agent()
    if above is None:
        return below
    return Agent.model_validate(_merge(below.manifest(), above.manifest()))


def _merge(below: JsonObject, above: JsonObject) -> JsonObject:
    merged = {**below, **above}
    if "env" in below and "env" in above:
        names = {variable["name"] for variable in above["env"]}
        kept = [variable for variable in below["env"] if variable["name"] not in names]
        merged["env"] = kept + above["env"]
    # A command without arguments of its own replaces both, as in a pod.
    if "command" in above and "args" not in above:
        merged.pop("args", None)
    return merged


def _resolve(
    agent: Agent, templates: Mapping[str, AgentContainer], path: str
) -> tuple[AgentContainer | None, list[Problem]]:
    own = agent.manifest()
    name = own.pop("templateRef", None)
    if name is None:
        return AgentContainer.model_validate(own), []
    if name not in templates:
        return None, [Problem(f"{path}.templateRef", f"there is no AgentTemplate {name!r} in this namespace")]
    return AgentContainer.model_validate(_merge(templates[name].manifest(), own)), []


def _check_step(
    step: Step, agent: AgentContainer | None, path: str, names: Collection[str], problems: list[Problem]
) -> set[str]:
    """Problems of one step's expressions, and the steps that they refer to."""
    needed: set[str] = set()
    if isinstance(step.for_each, str):
        needed |= _check_for_each(step.for_each, f"{path}.forEach", names, problems)
    elif isinstance(step.for_each, (list, dict)):
        if len(step.for_each) > MAX_ITEMS:
            problems.append(
                Problem(
                    f"{path}.forEach",
                    f"{len(step.for_each)} items; the limit is {MAX_ITEMS}, use fewer, larger ones",
                )
            )
        for where, text in walk_strings(step.for_each, f"{path}.forEach"):
            needed |= _check_text(text, where, WORKFLOW_NAMES, names, problems)
    elif step.for_each is not None:
        problems.append(
            Problem(f"{path}.forEach", "must be a list, a map, or one ${} expression that gives one")
        )
    known = TASK_NAMES if step.for_each is not None else WORKFLOW_NAMES
    values: list[tuple[str, Any]] = [(f"{path}.input", step.input)]
    if agent is not None:
        block = agent.manifest()
        for field in ("image", "serviceAccountName"):
            if has_expression(str(block.get(field, ""))):
                problems.append(
                    Problem(
                        f"{path}.agent.{field}", "takes no expressions; use env, args or input for values"
                    )
                )
        values += [(f"{path}.agent.{field}", block.get(field)) for field in ("command", "args", "env")]
    for value_path, value in values:
        for where, text in walk_strings(value, value_path):
            needed |= _check_text(text, where, known, names, problems)
    return needed


def _check_for_each(text: str, path: str, names: Collection[str], problems: list[Problem]) -> set[str]:
    try:
        whole = parse_text(text).whole
    except ExpressionError:
        whole = None  # reported below with its cause
    else:
        if whole is None:
            problems.append(Problem(path, "must be a list, a map, or one ${} expression that gives one"))
            return set()
    return _check_text(text, path, WORKFLOW_NAMES, names, problems)


def _check_text(
    text: str, path: str, known: Collection[str], steps: Collection[str], problems: list[Problem]
) -> set[str]:
    """Problems of the expressions in a string, and the steps that they refer to."""
    if not has_expression(text):
        return set()
    try:
        parsed = parse_text(text)
    except ExpressionError as error:
        problems.append(Problem(path, str(error)))
        return set()
    needed: set[str] = set()
    for part in parsed.parts:
        if isinstance(part, str):
            continue
        for name in sorted(part.names - frozenset(known)):
            if name in ("item", "index"):
                remedy = "only a step with forEach has it"
            elif not known:
                remedy = "no names are known here"
            else:
                remedy = f"known here are {', '.join(sorted(known))}; a literal ${{ is written $${{"
            problems.append(Problem(path, f"${{{part.source}}}: unknown name {name!r}: {remedy}"))
        for name in sorted(part.steps):
            if name not in steps:
                problems.append(Problem(path, f"${{{part.source}}}: {_unknown_step(name, steps)}"))
        needed |= part.steps
    return needed


def _unknown_step(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; name a step of this workflow"
    return f"there is no step {name!r}{hint}"


def _snapshot_step(
    spec: WorkflowSpec, step: Step, agent: AgentContainer | None, dependencies: list[str]
) -> JsonObject:
    retry = step.retry or spec.defaults.retry or Retry()
    snapshot: JsonObject = {
        "name": step.name,
        "dependsOn": dependencies,
        "agent": agent.manifest() if agent is not None else {},
        "input": step.input if step.input is not None else {},
        "retry": {"limit": retry.limit},
    }
    if step.for_each is not None:
        snapshot["forEach"] = step.for_each
    return snapshot
