"""A faulty manifest made good enough to be looked at further, so that its author hears of all faults at once.

What is wrong is left out, or replaced by something that nothing else can be wrong with. A message about the
mended spec names fields where they stand in it, so a draft knows where everything came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from perdure.api.agent import Agent, AgentContainer
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.graph import Graph
from perdure.api.step import Cache, ChildWorkflow, Defaults, Repeat, Step
from perdure.api.validation.problems import (
    Location,
    field_names,
    is_misplaced,
    message_of,
    model_at,
    part_of_path,
    surely_meant,
)
from perdure.api.workflowschedule import ScheduledWorkflow, WorkflowScheduleSpec

_Spec = TypeVar("_Spec", bound=BaseModel)

_AGENT: Final = {"image": "unknown"}
_STEPS: Final = [{"name": "unknown", "wait": {"duration": "0s"}}]
_GRAPH: Final = {"steps": _STEPS}
_PART: Final = re.compile(r'\.([A-Za-z_][\w-]*)|\[(\d+)\]|\["([^"]*)"\]')

#: What stands in for a faulty or missing field without which its step, or a name that others refer to, would
#: be lost, and with it sight of their other faults.
_STAND_INS: Final[tuple[tuple[type[BaseModel], str, Any], ...]] = (
    (AgentContainer, "image", "unknown"),
    (Graph, "steps", _STEPS),
    (Step, "agent", _AGENT),
    (Step, "repeat", {"until": "${true}", "maxIterations": 1}),
    (Step, "wait", {"duration": "0s"}),
    (Step, "workflow", {"spec": _GRAPH}),
    (Defaults, "agent", _AGENT),
    (AgentTaskSpec, "agent", _AGENT),
    (ChildWorkflow, "spec", _GRAPH),
    (Repeat, "until", "${true}"),
    (Repeat, "maxIterations", 1),
    (Cache, "key", "unknown"),
    (WorkflowScheduleSpec, "schedule", "@hourly"),
    (WorkflowScheduleSpec, "workflow", {"spec": _GRAPH}),
    (ScheduledWorkflow, "spec", _GRAPH),
)


@dataclass(slots=True)
class Draft:
    """A raw spec and the edits that make it valid. Locations of edits are those in the raw spec."""

    raw: Any
    dropped: set[Location] = field(default_factory=set)
    renamed: dict[Location, str] = field(default_factory=dict)
    replaced: dict[Location, Any] = field(default_factory=dict)
    added: dict[Location, dict[str, Any]] = field(default_factory=dict)
    #: Of the containers in which entries have moved: where each came from.
    _moved: dict[Location, dict[int | str, int | str]] = field(default_factory=dict)

    @property
    def edits(self) -> int:
        """The number of edits."""
        added = sum(map(len, self.added.values()))
        return len(self.dropped) + len(self.renamed) + len(self.replaced) + added

    def mended(self) -> Any:
        """The raw spec with all edits made. Raises nothing; parts that are as they were are shared."""
        self._moved = {}
        return self._copy(self.raw, ()) if self.edits else self.raw

    def origin(self, location: Location) -> Location:
        """Where in the raw spec that is which is at `location` in the mended one."""
        found: Location = ()
        for part in location:
            found += (self._moved.get(found, {}).get(part, part),)
        return found

    def origin_of_path(self, path: str) -> str:
        """The same for the text of a path without its root, such as `.steps[2].agent`."""
        if not self._moved:
            return path
        found: Location = ()
        text = ""
        end = 0
        while match := _PART.match(path, end):
            name, number, key = match.groups()
            part: int | str = int(number) if number else str(name or key)
            origin = self._moved.get(found, {}).get(part, part)
            found += (origin,)
            text += match.group() if origin == part else part_of_path(origin)
            end = match.end()
        return text + path[end:]

    def get(self, location: Location) -> Any:
        """The raw value at a location, under whatever name it stands there; None if there is none."""
        value = self.raw
        found: Location = ()
        for part in location:
            if isinstance(value, dict) and isinstance(part, str):
                name = next(
                    (at[-1] for at, new in self.renamed.items() if at[:-1] == found and new == part), part
                )
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                name = part
            else:
                return None
            value = value.get(name) if isinstance(value, dict) else value[part]
            found += (name,)
        return value

    def named(self, location: Location) -> Location:
        """A location as its author wrote it: with the names that stand for known ones."""
        found: Location = ()
        for part in location:
            found += (
                next((at[-1] for at, new in self.renamed.items() if at[:-1] == found and new == part), part),
            )
        return found

    def _copy(self, value: Any, location: Location) -> Any:
        if location in self.replaced:
            return self.replaced[location]
        if isinstance(value, dict):
            made = {}
            for key, child in value.items():
                at = (*location, key)
                if at not in self.dropped:
                    name: str = self.renamed.get(at) or key
                    if name != key:
                        self._moved.setdefault(location, {})[name] = key
                    made[name] = self._copy(child, at)
            return made | self.added.get(location, {})
        if isinstance(value, list):
            items: list[Any] = []
            for index, child in enumerate(value):
                at = (*location, index)
                if at not in self.dropped:
                    if len(items) != index:
                        self._moved.setdefault(location, {})[len(items)] = index
                    items.append(self._copy(child, at))
            return items
        return value


def validate(
    draft: Draft, model: type[_Spec], found: Callable[[Location, str], None]
) -> tuple[_Spec | None, set[Location]]:
    """The model of what is good in `draft`, which is edited for that, or None if nothing is.

    `found` is told of every fault: its place in the raw spec, and a message. Beside the spec there are the
    places of objects with unknown fields: what seems to be missing there may only be misspelt.
    """
    misspelt: set[Location] = set()
    while True:
        try:
            # Only the names of the manifest: `depends_on` is a mistake there, though the model knows it.
            return model.model_validate(draft.mended(), strict=True, by_alias=True, by_name=False), misspelt
        except ValidationError as error:
            faults = error.errors(include_url=False)
        unknown = {
            (at[:-1], surely_meant(str(at[-1]), model_at(model, at[:-1])))
            for fault in faults
            if fault["type"] == "extra_forbidden" and (at := fault["loc"])
        }
        edits = draft.edits
        for fault in faults:
            at = fault["loc"]
            origin = draft.origin(at)
            if fault["type"] == "extra_forbidden":
                if not is_misplaced(at, model):
                    misspelt.add(origin[:-1])
            elif fault["type"] == "missing" and (at[:-1], at[-1]) in unknown:
                continue  # it is there, under another name
            if not _follows(fault, origin, draft):
                found(origin, message_of(fault, model))
            _mend(draft, model, fault, origin)
        if () in draft.dropped or draft.edits == edits:
            return None, misspelt


def _follows(fault: ErrorDetails, origin: Location, draft: Draft) -> bool:
    """True if a fault comes of what was done about another, in the same field or in a part of it."""
    parted = any(at[: len(origin)] == origin for at in draft.dropped)
    return origin in draft.replaced or (parted and fault["type"] in ("too_short", "value_error"))


def _mend(draft: Draft, model: type[BaseModel], fault: ErrorDetails, origin: Location) -> None:
    """The edit that does away with one fault at the least loss."""
    at = fault["loc"]
    owner = model_at(model, at[:-1]) if at and isinstance(at[-1], str) else None
    if fault["type"] == "extra_forbidden":
        meant = surely_meant(str(at[-1]), owner)
        if meant is None or draft.get((*origin[:-1], meant)) is not None:
            draft.dropped.add(origin)
        else:
            draft.renamed[origin] = meant
    elif fault["type"] == "too_long":
        length = len(fault["input"])
        kept = fault["ctx"]["max_length"]
        if isinstance(fault["input"], list):
            draft.dropped |= {(*origin, index) for index in range(kept, length)}
        else:
            draft.dropped |= {(*origin, key) for key in list(fault["input"])[kept:]}
    elif fault["type"] == "missing":
        _supply(draft, model, at, origin)
    elif model_at(model, at) is ChildWorkflow and fault["type"] == "value_error" and fault["input"]:
        _mend_child(draft, fault["input"], origin)
    else:
        _replace(draft, model, at, origin)


def _mend_child(draft: Draft, child: dict[str, Any], origin: Location) -> None:
    if "spec" in child:  # and templateRef: only the first can be looked into
        draft.dropped.add((*origin, "templateRef"))
    else:
        draft.added.setdefault(origin, {})["spec"] = _GRAPH


def _supply(draft: Draft, model: type[BaseModel], at: Location, origin: Location) -> None:
    """Something for a missing field, or else the object that should have it goes."""
    name = str(at[-1])
    stand_in = _stand_in(model_at(model, at[:-1]), name, origin)
    if stand_in is not None:
        draft.added.setdefault(origin[:-1], {})[name] = stand_in
    else:
        _replace(draft, model, at[:-1], origin[:-1])


def _replace(draft: Draft, model: type[BaseModel], at: Location, origin: Location) -> None:
    """Something instead of a faulty value, or else it goes, or what cannot be without it."""
    while at:
        name = at[-1]
        if isinstance(name, int):
            draft.dropped.add(origin)
            return
        owner = model_at(model, at[:-1])
        stand_in = _stand_in(owner, name, origin)
        if stand_in is not None and origin not in draft.replaced:
            draft.replaced[origin] = stand_in
            return
        if name == "templateRef" and owner is not None:
            # The block must still name something to run, but nothing that would be looked for.
            other = {"image": "unknown"} if issubclass(owner, Agent) else {"spec": _GRAPH}
            if owner in (Agent, ChildWorkflow) and not other.keys() & (draft.get(origin[:-1]) or {}).keys():
                draft.added.setdefault(origin[:-1], {}).update(other)
        if owner is None or not _is_required(owner, name):
            draft.dropped.add(origin)
            return
        at, origin = at[:-1], origin[:-1]
    draft.dropped.add(())


def _stand_in(owner: type[BaseModel] | None, name: str, origin: Location) -> Any:
    if owner is None:
        return None
    if owner is Step and name == "name":
        return stand_in_name(origin)
    return next((made for cls, key, made in _STAND_INS if key == name and issubclass(owner, cls)), None)


def stand_in_name(location: Location) -> str:
    """A name for the step whose name is at `location`: no other step's, and a DNS label."""
    return "unnamed-" + "-".join(str(part).lower() for part in location[-3:-1])


def _is_required(owner: type[BaseModel], name: str) -> bool:
    names = dict(zip(field_names(owner), owner.model_fields.values(), strict=True))
    return name in names and names[name].is_required()
