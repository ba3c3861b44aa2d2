"""Error recovery: a faulty spec is repaired as far as needed, so that all its faults are reported at once.

A faulty part is left out, or replaced by a value with which nothing else can be wrong. Messages about the
repaired spec must name fields where the author wrote them, so a repair knows where each part came from.
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
from perdure.api.spec_models import SpecModels
from perdure.api.step import Cache, Defaults, Repeat, Step
from perdure.api.step_kind import BlockRepair
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

_PART: Final = re.compile(r'\.([A-Za-z_][\w-]*)|\[(\d+)\]|\["([^"]*)"\]')

_UNKNOWN_IMAGE: Final = {"image": "unknown"}
#: Values for faulty or missing fields without which the step, or a name that others refer to, would be lost,
#: and with it every other fault in the step. What holds for a step and its blocks comes from the kinds.
_STAND_INS: Final[tuple[tuple[type[BaseModel], str, Any], ...]] = (
    (AgentContainer, "image", "unknown"),
    (Step, "repeat", {"until": "${true}", "maxIterations": 1}),
    (Defaults, "agent", _UNKNOWN_IMAGE),
    (AgentTaskSpec, "agent", _UNKNOWN_IMAGE),
    (Repeat, "until", "${true}"),
    (Repeat, "maxIterations", 1),
    (Cache, "key", "unknown"),
    (WorkflowScheduleSpec, "schedule", "@hourly"),
)
_AGENT_REPAIR: Final = BlockRepair(fields=_UNKNOWN_IMAGE, one_of=("image", "templateRef"))
_NO_REPAIR: Final = BlockRepair()


@dataclass(slots=True)
class Repair:
    """A raw spec and the edits that make it valid. Locations of edits are those in the raw spec.

    `models` are those of the spec's step kinds; None for a spec that contains no steps.
    """

    raw: Any
    models: SpecModels | None = None
    dropped: set[Location] = field(default_factory=set)
    renamed: dict[Location, str] = field(default_factory=dict)
    replaced: dict[Location, Any] = field(default_factory=dict)
    added: dict[Location, dict[str, Any]] = field(default_factory=dict)
    #: For each container in which entries have moved: where each came from.
    _moved: dict[Location, dict[int | str, int | str]] = field(default_factory=dict)

    @property
    def edits(self) -> int:
        """The number of edits."""
        added = sum(map(len, self.added.values()))
        return len(self.dropped) + len(self.renamed) + len(self.replaced) + added

    def repaired(self) -> Any:
        """The raw spec with all edits applied. Unchanged parts are shared with the raw spec."""
        self._moved = {}
        return self._copy(self.raw, ()) if self.edits else self.raw

    def origin(self, location: Location) -> Location:
        """The location in the raw spec of what is at `location` in the repaired one."""
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
        """The raw value at a location, under the name that its author gave it; None if there is none."""
        value = self.raw
        if not self.renamed:
            for part in location:
                if isinstance(value, dict) and isinstance(part, str):
                    value = value.get(part)
                elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                    value = value[part]
                else:
                    return None
            return value
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
        """A location as its author wrote it, misspelt names included."""
        if not self.renamed:
            return location
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
    repair: Repair, model: type[_Spec], found: Callable[[Location, str], None]
) -> tuple[_Spec | None, set[Location]]:
    """The spec, for which `repair` is edited until it is valid; None if nothing of it is.

    Every fault is reported to `found` with its location in the raw spec and a message. The second result has
    the locations of objects with unknown fields: what seems to be missing there may only be misspelt.
    """
    misspelt: set[Location] = set()
    while True:
        try:
            # Only the names of the manifest: `depends_on` is a mistake there, though the model knows it.
            return model.model_validate(
                repair.repaired(), strict=True, by_alias=True, by_name=False
            ), misspelt
        except ValidationError as error:
            faults = error.errors(include_url=False)
        unknown = {
            (at[:-1], surely_meant(str(at[-1]), model_at(model, at[:-1])))
            for fault in faults
            if fault["type"] == "extra_forbidden" and (at := fault["loc"])
        }
        edits = repair.edits
        for fault in faults:
            at = fault["loc"]
            origin = repair.origin(at)
            if fault["type"] == "extra_forbidden":
                if not is_misplaced(at, model):
                    misspelt.add(origin[:-1])
            elif fault["type"] == "missing" and (at[:-1], at[-1]) in unknown:
                continue  # The field is there, under another name.
            if not _follows(fault, origin, repair):
                found(origin, message_of(fault, model))
            _edit(repair, model, fault, origin)
        if () in repair.dropped or repair.edits == edits:
            return None, misspelt


def _follows(fault: ErrorDetails, origin: Location, repair: Repair) -> bool:
    """True if a fault follows from the edit for another fault, of the same field or of a part of it."""
    parted = any(at[: len(origin)] == origin for at in repair.dropped)
    return origin in repair.replaced or (parted and fault["type"] in ("too_short", "value_error"))


def _edit(repair: Repair, model: type[BaseModel], fault: ErrorDetails, origin: Location) -> None:
    """Edit away one fault, with the least loss."""
    at = fault["loc"]
    owner = model_at(model, at[:-1]) if at and isinstance(at[-1], str) else None
    if fault["type"] == "extra_forbidden":
        meant = surely_meant(str(at[-1]), owner)
        if meant is None or repair.get((*origin[:-1], meant)) is not None:
            repair.dropped.add(origin)
        else:
            repair.renamed[origin] = meant
    elif fault["type"] == "too_long":
        length = len(fault["input"])
        kept = fault["ctx"]["max_length"]
        if isinstance(fault["input"], list):
            repair.dropped |= {(*origin, index) for index in range(kept, length)}
        else:
            repair.dropped |= {(*origin, key) for key in list(fault["input"])[kept:]}
    elif fault["type"] == "missing":
        _supply(repair, model, at, origin)
    elif (
        fault["type"] == "value_error"
        and fault["input"]
        and (block := _block_repair(model_at(model, at), repair)).one_of
    ):
        _keep_one(repair, block, fault["input"], origin)
    else:
        _replace(repair, model, at, origin)


def _keep_one(repair: Repair, block: BlockRepair, given: dict[str, Any], origin: Location) -> None:
    """Of the fields of which a block takes exactly one, keep the first, or add it."""
    present = [name for name in block.one_of if name in given]
    repair.dropped |= {(*origin, name) for name in present[1:]}
    if not present:
        repair.added.setdefault(origin, {})[block.one_of[0]] = block.fields[block.one_of[0]]


def _supply(repair: Repair, model: type[BaseModel], at: Location, origin: Location) -> None:
    """Add a value for a missing field, or else drop the object that should have it."""
    name = str(at[-1])
    stand_in = _stand_in(repair, model_at(model, at[:-1]), name, origin)
    if stand_in is not None:
        repair.added.setdefault(origin[:-1], {})[name] = stand_in
    else:
        _replace(repair, model, at[:-1], origin[:-1])


def _replace(repair: Repair, model: type[BaseModel], at: Location, origin: Location) -> None:
    """Replace a faulty value, or else drop it, or the object that cannot be without it."""
    while at:
        name = at[-1]
        if isinstance(name, int):
            repair.dropped.add(origin)
            return
        owner = model_at(model, at[:-1])
        stand_in = _stand_in(repair, owner, name, origin)
        if stand_in is not None and origin not in repair.replaced:
            repair.replaced[origin] = stand_in
            return
        block = _block_repair(owner, repair)
        if name in block.one_of[1:]:
            # The block must still name something to run, though not an object that would have to exist.
            first = block.one_of[0]
            if first not in (repair.get(origin[:-1]) or {}):
                repair.added.setdefault(origin[:-1], {})[first] = block.fields[first]
        if owner is None or not _is_required(owner, name):
            repair.dropped.add(origin)
            return
        at, origin = at[:-1], origin[:-1]
    repair.dropped.add(())


def _stand_in(repair: Repair, owner: type[BaseModel] | None, name: str, origin: Location) -> Any:
    """A value for the field `name` of an object; None if there is none."""
    if owner is None:
        return None
    if issubclass(owner, Step):
        if name == "name":
            return stand_in_name(origin)
        blocks = {kind.field: kind.stand_in for kind in owner.KINDS}
        if name in blocks:
            return blocks[name]
    if repair.models is not None:
        steps = [repair.models.stand_in_step]
        if issubclass(owner, Graph) and name == "steps":
            return steps
        if issubclass(owner, ScheduledWorkflow) and name == "spec":
            return {"steps": steps}
        if issubclass(owner, WorkflowScheduleSpec) and name == "workflow":
            return {"spec": {"steps": steps}}
    fields = _block_repair(owner, repair).fields
    if name in fields:
        return fields[name]
    return next((made for cls, key, made in _STAND_INS if key == name and issubclass(owner, cls)), None)


def _block_repair(owner: type[BaseModel] | None, repair: Repair) -> BlockRepair:
    """How to repair objects of a model that is the block of a step kind."""
    if owner is Agent:
        return _AGENT_REPAIR
    kinds = () if repair.models is None else repair.models.kinds
    return next((kind.repair for kind in kinds if owner is kind.block), _NO_REPAIR)


def stand_in_name(location: Location) -> str:
    """A name for the step whose name is at `location`: a DNS label that no other step has."""
    return "unnamed-" + "-".join(str(part).lower() for part in location[-3:-1])


def _is_required(owner: type[BaseModel], name: str) -> bool:
    names = dict(zip(field_names(owner), owner.model_fields.values(), strict=True))
    return name in names and names[name].is_required()
