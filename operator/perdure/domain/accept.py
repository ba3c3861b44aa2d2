"""Acceptance: everything that can be known to be wrong before a run starts.

What the schema could say is said when a manifest is applied; here is the rest: templates, unknown references,
cycles and bad expressions. The outcome of acceptance is the run's snapshot: a spec with every template filled
in, so that a later edit changes no live run.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
        names = {spec.agent.template_ref}
    else:
        names = {_template_name(spec.defaults.agent, step.agent) for step in spec.steps}
    return frozenset(name for name in names if name is not None)


def accept_workflow(spec: WorkflowSpec, templates: Mapping[str, AgentContainer]) -> JsonObject:
    """The run's snapshot. Raises Refused, or TemplateMissing if only templates are wanting."""
    problems: list[Problem] = []
    missing: list[Problem] = []
    names = [step.name for step in spec.steps]
    #: For each step those it depends on, and the field that says so.
    dependencies: dict[str, dict[str, str]] = {}
    steps: list[JsonObject] = []
    for position, step in enumerate(spec.steps):
        path = f"spec.steps[{position}]"
        agent, gap = _resolve(spec.defaults.agent, step.agent, templates, f"{path}.agent")
        missing += gap
        if agent.image is None and not gap:
            problems.append(
                Problem(f"{path}.agent.image", "an image is needed, here, in defaults.agent or in a template")
            )
        needed: dict[str, str] = {}
        for dependency_position, dependency in enumerate(step.depends_on):
            where = f"{path}.dependsOn[{dependency_position}]"
            needed[dependency] = where
            if dependency not in names:
                problems.append(Problem(where, _unknown_step(dependency, names)))
        needed = _check_step(step, agent, path, names, problems) | needed
        dependencies[step.name] = {name: where for name, where in needed.items() if name in names}
        steps.append(_snapshot_step(spec, step, agent, sorted(dependencies[step.name])))
    for where, text in walk_strings(spec.outputs, "spec.outputs"):
        _check_text(text, where, WORKFLOW_NAMES, names, problems)
    try:
        topological_order({name: needed.keys() for name, needed in dependencies.items()})
    except Cycle as cycle:
        first, second = (cycle.steps * 2)[:2]
        problems.append(
            Problem(dependencies[first][second], f"the steps wait for each other: {cycle}; break the cycle")
        )
    if problems:
        raise Refused(tuple(problems))
    if missing:
        raise TemplateMissing(tuple(missing))
    return {
        "inputs": dict(spec.inputs),
        "parallelism": spec.parallelism,
        "retention": {"ttlAfterFinished": spec.retention.ttl_after_finished},
        "steps": steps,
        "outputs": dict(spec.outputs),
    }


def accept_task(spec: AgentTaskSpec, templates: Mapping[str, AgentContainer]) -> JsonObject:
    """The snapshot of a standalone AgentTask: a run of one step whose name is ''. Raises as above."""
    problems: list[Problem] = []
    agent, gap = _resolve(None, spec.agent, templates, "spec.agent")
    if agent.image is None and not gap:
        problems.append(Problem("spec.agent.image", "an image is needed, here or in a template"))
    for where, text in [
        *walk_strings(spec.input, "spec.input"),
        *_agent_texts(agent, "spec.agent", problems),
    ]:
        _check_text(text, where, frozenset({"workflow"}), (), problems)
    if problems:
        raise Refused(tuple(problems))
    if gap:
        raise TemplateMissing(tuple(gap))
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


def _template_name(defaults: Agent | None, own: Agent | None) -> str | None:
    """The template of an agent block: its own, else that of the defaults."""
    if own is not None and own.template_ref is not None:
        return own.template_ref
    return defaults.template_ref if defaults is not None else None


def _resolve(
    defaults: Agent | None, own: Agent | None, templates: Mapping[str, AgentContainer], path: str
) -> tuple[AgentContainer, list[Problem]]:
    """An agent block with what it leaves out filled in, as far as its template exists.

    Whoever names a template means that template: one in the step covers the fields of the defaults, one in
    the defaults lies under them.
    """
    name = _template_name(defaults, own)
    template = templates.get(name) if name is not None else None
    below = template.manifest() if template is not None else {}
    layers = [below, _fields(defaults), _fields(own)]
    if own is not None and own.template_ref is not None:
        layers[:2] = reversed(layers[:2])
    block: JsonObject = {}
    for layer in layers:
        block = _merge(block, layer)
    gap = []
    if name is not None and template is None:
        gap.append(
            Problem(f"{path}.templateRef", f"there is no AgentTemplate {name!r} in this namespace; apply it")
        )
    return AgentContainer.model_validate(block), gap


def _fields(agent: Agent | None) -> JsonObject:
    """What an agent block says beside its template."""
    block = agent.manifest() if agent is not None else {}
    block.pop("templateRef", None)
    return block


def _merge(below: JsonObject, above: JsonObject) -> JsonObject:
    """`above`, with what it leaves out taken from `below`. Environments are joined by name."""
    merged = {**below, **above}
    if "env" in below and "env" in above:
        names = {variable["name"] for variable in above["env"]}
        kept = [variable for variable in below["env"] if variable["name"] not in names]
        merged["env"] = kept + above["env"]
    # A command without arguments of its own replaces both, as in a pod.
    if "command" in above and "args" not in above:
        merged.pop("args", None)
    return merged


def _check_step(
    step: Step, agent: AgentContainer, path: str, names: Collection[str], problems: list[Problem]
) -> dict[str, str]:
    """Problems of one step's expressions, and the steps that they refer to with the field that does."""
    needed: dict[str, str] = {}
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
    texts = [*walk_strings(step.input, f"{path}.input"), *_agent_texts(agent, f"{path}.agent", problems)]
    for where, text in texts:
        needed |= _check_text(text, where, known, names, problems)
    return needed


def _agent_texts(agent: AgentContainer, path: str, problems: list[Problem]) -> list[tuple[str, str]]:
    """The strings of an agent block that may hold expressions; others must not, or nobody would fill them."""
    block = agent.manifest()
    for where, text in walk_strings(
        {
            "image": block.get("image"),
            "env": [{**variable, "value": None} for variable in block.get("env") or ()],
        },
        path,
    ):
        if has_expression(text):
            problems.append(Problem(where, "takes no expressions; use env, args or input for values"))
    return [
        *walk_strings(block.get("command"), f"{path}.command"),
        *walk_strings(block.get("args"), f"{path}.args"),
        *(
            (f"{path}.env[{position}].value", variable["value"])
            for position, variable in enumerate(block.get("env") or ())
            if "value" in variable
        ),
    ]


def _check_for_each(text: str, path: str, names: Collection[str], problems: list[Problem]) -> dict[str, str]:
    try:
        whole = parse_text(text).whole
    except ExpressionError:
        whole = None  # reported below with its cause
    else:
        if whole is None:
            problems.append(Problem(path, "must be a list, a map, or one ${} expression that gives one"))
            return {}
    return _check_text(text, path, WORKFLOW_NAMES, names, problems)


def _check_text(
    text: str, path: str, known: Collection[str], steps: Collection[str], problems: list[Problem]
) -> dict[str, str]:
    """Problems of the expressions in a string, and the steps that they refer to, with `path`."""
    if not has_expression(text):
        return {}
    try:
        parsed = parse_text(text)
    except ExpressionError as error:
        problems.append(Problem(path, str(error)))
        return {}
    needed: dict[str, str] = {}
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
        if "steps" not in known:
            continue
        for name in sorted(part.steps.difference(steps)):
            dashed = next((other for other in steps if other.startswith(f"{name}-")), None)
            text = f'there is no step {name!r}; for {dashed!r} write steps["{dashed}"]'
            text = text if dashed is not None else _unknown_step(name, steps)
            problems.append(Problem(path, f"${{{part.source}}}: {text}"))
        needed |= dict.fromkeys(part.steps, path)
    return needed


def _unknown_step(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; name a step of this workflow"
    return f"there is no step {name!r}{hint}"


def _snapshot_step(
    spec: WorkflowSpec, step: Step, agent: AgentContainer, dependencies: list[str]
) -> JsonObject:
    retry = step.retry or spec.defaults.retry or Retry()
    snapshot: JsonObject = {
        "name": step.name,
        "dependsOn": dependencies,
        "agent": agent.manifest(),
        "input": step.input if step.input is not None else {},
        "retry": {"limit": retry.limit},
    }
    if step.for_each is not None:
        snapshot["forEach"] = step.for_each
    return snapshot
