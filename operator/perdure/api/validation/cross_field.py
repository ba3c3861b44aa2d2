"""Cross-field checks: what fields of a manifest say together, beyond the schema of each.

The checks read the raw manifest, so that their messages are about what its author wrote even where other
parts of it are faulty. A value of a wrong type is passed over here, because the schema has reported it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from perdure.api.base import compact_json
from perdure.api.raw_spec import Found, Location, Raw, path_of
from perdure.api.step import MAX_ITEMS
from perdure.api.step_kind import StepSpec, excluded_fields, kind_of
from perdure.api.validation.repair import stand_in_name
from perdure.api.workflow import EXCLUDED_BY_TEMPLATE

#: The lists of steps. They share one name space.
STEP_LISTS: Final = ("steps", "finally")

_FOR_EACH_EXCLUDES: Final = (
    ("repeat", "does not go together with forEach: remove one, or repeat in a workflow step for each item"),
)
_ONLY_WITH_FOR_EACH: Final = "holds for the tasks of a forEach, and there is none: add forEach, or remove it"


@dataclass(frozen=True, slots=True)
class StepNames:
    """The names of steps as they are written, those of faulty steps included."""

    steps: frozenset[str] = frozenset()
    finally_: frozenset[str] = frozenset()
    #: False if a step may have a name that could not be read.
    complete: bool = True


def check_choice_of_steps(spec: Raw, found: Found) -> None:
    """A Workflow has either steps of its own or those of a template."""
    if not spec.at("templateRef").given:
        if not spec.at("steps").given and not spec.uncertain:
            found((*spec.location, "steps"), "is required, or templateRef instead")
        return
    for field in spec.value:
        name = spec.repair.renamed.get((*spec.location, field), field)
        known = (*spec.location, field) not in spec.repair.dropped
        if known and name in EXCLUDED_BY_TEMPLATE and spec.at(name).given:
            message = "does not go together with templateRef: it comes from the template; remove one of them"
            found((*spec.location, field), message)


def check_graph(graph: Raw, found: Found, *, root: str, kinds: tuple[StepSpec, ...]) -> StepNames:
    """Cross-field checks of a graph of steps. Renames the second of two steps of one name."""
    check_agent(graph.at("defaults", "agent"), found)
    checkers = {kind: kind.step_checker(graph, found) for kind in kinds}
    first: dict[str, Location] = {}
    names: dict[str, set[str]] = {field: set() for field in STEP_LISTS}
    complete = not graph.uncertain
    for field in STEP_LISTS:
        steps = graph.at(field)
        complete &= not steps.given or isinstance(steps.value, list)
        for step in steps.items():
            name = step.at("name")
            if isinstance(name.value, str) and name.value:
                names[field].add(name.value)
                if name.value in first:
                    other = path_of(first[name.value][:-1], root)
                    found(name.named, f"{name.value!r} is the name of {other} already: give each its own")
                    graph.repair.replaced[name.named] = stand_in_name(name.named)
                first.setdefault(name.value, name.named)
            else:
                complete = False
            _check_step(step, checkers, found)
        if isinstance(steps.value, list):
            complete &= all(isinstance(step, dict) for step in steps.value)
    return StepNames(frozenset(names["steps"]), frozenset(names["finally"]), complete)


def check_size(value: Raw, limit: int, found: Found) -> None:
    """The limit of free-form data: `limit` bytes as compact JSON."""
    try:
        size = len(compact_json(value.value))
    except ValueError:
        return  # Not JSON, which is reported elsewhere.
    if size > limit:
        found(
            value.named,
            f"has {size} bytes as compact JSON; at most {limit} are allowed: put large data where agents can"
            " fetch it, and its address here",
        )


def check_agent(agent: Raw, found: Found) -> None:
    """Cross-field checks of an agent block, whether in a step or flat in a template."""
    seen: set[str] = set()
    for variable in agent.at("env").items():
        name = variable.at("name")
        if isinstance(name.value, str):
            if name.value in seen:
                found(name.named, f"{name.value!r} is set twice: remove one")
            seen.add(name.value)


def check_container(agent: Raw, found: Found) -> None:
    """The agent of an AgentTask must name something to run."""
    if agent.given and not may_name_container(agent):
        found(agent.named, "names no container: give image or templateRef")


def may_name_container(agent: Raw, *around: Raw) -> bool:
    """True if an agent block names a container, or may: the block or an object around it is faulty itself."""
    if any(part.uncertain for part in (agent, *around)):
        return True
    if agent.given and not isinstance(agent.value, dict):
        return True
    return agent.at("image").given or agent.at("templateRef").given


def _check_step(step: Raw, checkers: Mapping[StepSpec, Callable[[Raw], None]], found: Found) -> None:
    kinds = tuple(checkers)
    blocks = {kind.field: step.at(kind.field) for kind in kinds}
    given = {field: block for field, block in blocks.items() if block.given}
    kind = kind_of(given.__contains__, kinds)
    excluded = list(excluded_fields(kind, kinds)) if kind.field in given else []
    items = step.at("forEach")
    if items.given:
        excluded += _FOR_EACH_EXCLUDES
    elif not step.uncertain:
        for field in ("parallelism", "maxFailures"):
            if step.at(field).given:
                found(step.at(field).named, _ONLY_WITH_FOR_EACH)
    for field, message in excluded:
        if step.at(field).given:
            found(step.at(field).named, message)
    _check_dependencies(step, found)
    _check_items(items, found)
    for other in kinds:
        if other.field in given:
            other.check_block(given[other.field], found)
    checkers[kind](step)


def _check_dependencies(step: Raw, found: Found) -> None:
    names, own = step.at("dependsOn"), step.at("name").value
    seen: set[str] = set()
    for index, name in enumerate(names.value if isinstance(names.value, list) else ()):
        if not isinstance(name, str):
            continue
        if name == own:
            where = names.at(index).named
            found(where, "a step cannot depend on itself: remove its name")
            # Left in, the name would be reported again, as a cycle.
            step.repair.drop(where)
        elif name in seen:
            found(names.at(index).named, f"{name!r} is listed twice: remove one")
        seen.add(name)


def _check_items(items: Raw, found: Found) -> None:
    value = items.value
    if isinstance(value, list | dict):
        if len(value) > MAX_ITEMS:
            found(
                items.named,
                f"has {len(value)} items; at most {MAX_ITEMS} are allowed: give each item more to do, or make"
                " several Workflows",
            )
    elif value is not None and not (isinstance(value, str) and "${" in value):
        found(items.named, "must be a list, a map, or one expression such as ${inputs.files}")
