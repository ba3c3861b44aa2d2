"""What fields of a manifest say together, beyond what each must be by itself.

The checks look at the raw manifest, so that they speak of what its author wrote even where other parts of it
are faulty; what is not of the right type is passed over here, since that has been told already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from perdure.api.base import compact_json
from perdure.api.graph import MAX_INPUT_BYTES
from perdure.api.step import MAX_ITEMS
from perdure.api.validation.problems import Location, path_of
from perdure.api.validation.repair import Draft, stand_in_name

#: The lists of steps. They share one name space.
STEP_LISTS: Final = ("steps", "finally")
#: What a Workflow may say beside its `templateRef`.
_BESIDE_TEMPLATE: Final = frozenset(
    {"templateRef", "inputs", "desiredState", "parallelism", "priority", "timeout", "retention"}
)

_NOTHING_RUNS: Final = (
    "does not go together with wait, which runs nothing: remove it, or make a step of its own"
)
_ITS_OWN: Final = "does not go together with workflow: give it to the steps of that workflow"
#: What does not go together with a kind of step, and what to do about it.
_EXCLUDED: Final[dict[str, dict[str, str]]] = {
    "wait": dict.fromkeys(
        (
            "agent",
            "workflow",
            "input",
            "retry",
            "disruptions",
            "timeout",
            "pendingTimeout",
            "idleTimeout",
            "cache",
            "repeat",
        ),
        _NOTHING_RUNS,
    ),
    "workflow": {
        "agent": "does not go together with workflow: remove one, or make a step of each",
        "input": "does not go together with workflow: give it in workflow.inputs",
        "pendingTimeout": _ITS_OWN,
        "idleTimeout": _ITS_OWN,
    },
    "forEach": {
        "repeat": "does not go together with forEach: remove one, or repeat in a workflow step for each item",
    },
}
_ONLY_WITH_FOR_EACH: Final = "holds for the tasks of a forEach, and there is none: add forEach, or remove it"

Found = Callable[[Location, str], None]


@dataclass(frozen=True, slots=True)
class Names:
    """The names of steps as they are written, those of faulty steps included."""

    steps: frozenset[str] = frozenset()
    finally_: frozenset[str] = frozenset()
    #: False if a step may have a name that could not be read.
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Raw:
    """An object of a draft, its fields under the names that they should have."""

    draft: Draft
    location: Location
    #: Objects with fields that could not be told.
    misspelt: frozenset[Location]

    def at(self, *location: int | str) -> Raw:
        return Raw(self.draft, (*self.location, *location), self.misspelt)

    @property
    def value(self) -> Any:
        return self.draft.get(self.location)

    @property
    def given(self) -> bool:
        return self.value is not None

    @property
    def named(self) -> Location:
        """The location as its author wrote it."""
        return self.draft.named(self.location)

    @property
    def uncertain(self) -> bool:
        """True if it has fields nobody knows: what it seems to lack may be one of those."""
        return self.named in self.misspelt

    def items(self) -> Iterator[Raw]:
        """The objects in it, if it is a list."""
        if isinstance(self.value, list):
            for index, item in enumerate(self.value):
                if isinstance(item, dict):
                    yield self.at(index)


def check_choice_of_steps(spec: Raw, found: Found) -> None:
    """A Workflow has steps of its own, or a template's."""
    if not spec.at("templateRef").given:
        if not spec.at("steps").given and not spec.uncertain:
            found((*spec.location, "steps"), "is required, or templateRef instead")
        return
    for field in spec.value:
        name = spec.draft.renamed.get((*spec.location, field), field)
        known = (*spec.location, field) not in spec.draft.dropped
        if known and name not in _BESIDE_TEMPLATE and spec.at(name).given:
            message = "does not go together with templateRef: it comes from the template; remove one of them"
            found((*spec.location, field), message)


def check_graph(graph: Raw, found: Found, *, root: str) -> Names:
    """What steps say together. Their names, and the edits for those that occur twice, come out of it."""
    check_agent(graph.at("defaults", "agent"), found)
    has_default = _may_name_container(graph.at("defaults", "agent"), graph.at("defaults"), graph)
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
                    graph.draft.replaced[name.named] = stand_in_name(name.named)
                first.setdefault(name.value, name.named)
            else:
                complete = False
            _check_step(step, found, has_default=has_default)
        if isinstance(steps.value, list):
            complete &= all(isinstance(step, dict) for step in steps.value)
    return Names(frozenset(names["steps"]), frozenset(names["finally"]), complete)


def check_size(value: Raw, limit: int, found: Found) -> None:
    """Free-form data within `limit` bytes."""
    try:
        size = len(compact_json(value.value))
    except ValueError:
        return  # no JSON; that has been told
    if size > limit:
        found(
            value.named,
            f"has {size} bytes as compact JSON; at most {limit} are allowed: put large data where agents can"
            " fetch it, and its address here",
        )


def check_agent(agent: Raw, found: Found) -> None:
    """What an agent block, a template's too, says together."""
    seen: set[str] = set()
    for variable in agent.at("env").items():
        name = variable.at("name")
        if isinstance(name.value, str):
            if name.value in seen:
                found(name.named, f"{name.value!r} is set twice: remove one")
            seen.add(name.value)


def check_container(agent: Raw, found: Found) -> None:
    """The agent of a task names something to run."""
    if agent.given and not _may_name_container(agent):
        found(agent.named, "names no container: give image or templateRef")


def _check_step(step: Raw, found: Found, *, has_default: bool) -> None:
    kind = next((kind for kind in ("wait", "workflow") if step.at(kind).given), None)
    for chosen in (kind, "forEach"):
        if chosen is not None and step.at(chosen).given:
            for field, message in _EXCLUDED[chosen].items():
                if step.at(field).given:
                    found(step.at(field).named, message)
    if not step.at("forEach").given and not step.uncertain:
        for field in ("parallelism", "maxFailures"):
            if step.at(field).given:
                found(step.at(field).named, _ONLY_WITH_FOR_EACH)
    _check_dependencies(step, found)
    _check_items(step.at("forEach"), found)
    check_agent(step.at("agent"), found)
    check_size(step.at("workflow", "inputs"), MAX_INPUT_BYTES, found)
    if kind is None and not has_default and not _may_name_container(step.at("agent"), step):
        message = "names no container: give image or templateRef, here or in spec.defaults.agent"
        found(step.at("agent").named, message)


def _may_name_container(agent: Raw, *around: Raw) -> bool:
    """True also if it cannot be told, because the block or one around it is faulty in itself."""
    if any(part.uncertain for part in (agent, *around)):
        return True
    if agent.given and not isinstance(agent.value, dict):
        return True
    return agent.at("image").given or agent.at("templateRef").given


def _check_dependencies(step: Raw, found: Found) -> None:
    names, own = step.at("dependsOn"), step.at("name").value
    seen: set[str] = set()
    for index, name in enumerate(names.value if isinstance(names.value, list) else ()):
        if not isinstance(name, str):
            continue
        if name == own:
            where = names.at(index).named
            found(where, "a step cannot depend on itself: remove its name")
            # Or it would be found again, as a cycle.
            step.draft.dropped.add(where)
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
