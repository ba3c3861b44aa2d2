"""Error recovery: a faulty spec is repaired as far as needed, so that all its faults are reported at once.

A faulty part is left out, or replaced by a value with which nothing else can be wrong. Messages about the
repaired spec must name fields where the author wrote them, so a repair knows where each part came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from perdure.api.agent import Agent, AgentContainer
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.graph import Graph
from perdure.api.raw_spec import Found, Location, Repair
from perdure.api.spec_models import SpecModels
from perdure.api.step import Cache, Defaults, Repeat, Step
from perdure.api.step_kind import BlockRepair
from perdure.api.validation.problems import (
    field_names,
    is_misplaced,
    message_of,
    model_at,
    surely_meant,
)
from perdure.api.workflowschedule import ScheduledWorkflow, WorkflowScheduleSpec

_Spec = TypeVar("_Spec", bound=BaseModel)

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
#: Faults of one manifest that are reported and repaired, those of the workflows in it included. More faults
#: of an object of 1.5 MB than this usually repeat one mistake, and each costs up to a millisecond.
MAX_FAULTS: Final = 100
_AGENT_REPAIR: Final = BlockRepair(fields=_UNKNOWN_IMAGE, one_of=("image", "templateRef"))
_NO_REPAIR: Final = BlockRepair()


@dataclass(slots=True)
class FaultBudget:
    """How many more faults of a manifest are reported and repaired."""

    left: int = MAX_FAULTS
    exceeded: bool = False

    def spend(self) -> bool:
        """Count a fault. False if it is one too many, and is not reported."""
        self.left -= 1
        self.exceeded = self.exceeded or self.left < 0
        return self.left >= 0


def validate(
    repair: Repair, model: type[_Spec], found: Found, models: SpecModels | None, budget: FaultBudget
) -> tuple[_Spec | None, set[Location]]:
    """The spec, for which `repair` is edited until it is valid; None if nothing of it is.

    `models` are those of the step kinds, None for a spec without steps. Every fault is reported to `found`
    with its location in the raw spec and a message, until the `budget` is used up: then the spec is None. The
    second result has the locations of objects with unknown fields: what seems to be missing there may only be
    misspelt.
    """
    misspelt: set[Location] = set()
    while True:
        try:
            # Only the names of the manifest: `depends_on` is a mistake there, though the model knows it.
            return model.model_validate(
                repair.repaired(), strict=True, by_alias=True, by_name=False
            ), misspelt
        except ValidationError as error:
            # One more than are left exceeds the budget.
            faults = error.errors(include_url=False)[: max(0, budget.left) + 1]
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
            _edit(repair, models, model, fault, origin)
        if budget.exceeded:
            return None, misspelt
        if () in repair.dropped or repair.edits == edits:
            return None, misspelt


def _follows(fault: ErrorDetails, origin: Location, repair: Repair) -> bool:
    """True if a fault follows from the edit for another fault, of the same field or of a part of it."""
    if origin in repair.replaced:
        return True
    return fault["type"] in ("too_short", "value_error") and repair.is_parted(origin)


def _edit(
    repair: Repair, models: SpecModels | None, model: type[BaseModel], fault: ErrorDetails, origin: Location
) -> None:
    """Edit away one fault, with the least loss."""
    at = fault["loc"]
    owner = model_at(model, at[:-1]) if at and isinstance(at[-1], str) else None
    if fault["type"] == "extra_forbidden":
        meant = surely_meant(str(at[-1]), owner)
        if meant is None or repair.get((*origin[:-1], meant)) is not None:
            repair.drop(origin)
        else:
            repair.renamed[origin] = meant
    elif fault["type"] == "too_long":
        length = len(fault["input"])
        kept = fault["ctx"]["max_length"]
        if isinstance(fault["input"], list):
            repair.drop(*((*origin, index) for index in range(kept, length)))
        else:
            repair.drop(*((*origin, key) for key in list(fault["input"])[kept:]))
    elif fault["type"] == "missing":
        _supply(repair, models, model, at, origin)
    elif (
        fault["type"] == "value_error"
        and fault["input"]
        and (block := _block_repair(model_at(model, at), models)).one_of
    ):
        _keep_one(repair, block, fault["input"], origin)
    else:
        _replace(repair, models, model, at, origin)


def _keep_one(repair: Repair, block: BlockRepair, given: dict[str, Any], origin: Location) -> None:
    """Of the fields of which a block takes exactly one, keep the first, or add it."""
    present = [name for name in block.one_of if name in given]
    repair.drop(*((*origin, name) for name in present[1:]))
    if not present:
        repair.added.setdefault(origin, {})[block.one_of[0]] = block.fields[block.one_of[0]]


def _supply(
    repair: Repair, models: SpecModels | None, model: type[BaseModel], at: Location, origin: Location
) -> None:
    """Add a value for a missing field, or else drop the object that should have it."""
    name = str(at[-1])
    stand_in = _stand_in(models, model_at(model, at[:-1]), name, origin)
    if stand_in is not None:
        repair.added.setdefault(origin[:-1], {})[name] = stand_in
    else:
        _replace(repair, models, model, at[:-1], origin[:-1])


def _replace(
    repair: Repair, models: SpecModels | None, model: type[BaseModel], at: Location, origin: Location
) -> None:
    """Replace a faulty value, or else drop it, or the object that cannot be without it."""
    while at:
        name = at[-1]
        if isinstance(name, int):
            repair.drop(origin)
            return
        owner = model_at(model, at[:-1])
        stand_in = _stand_in(models, owner, name, origin)
        if stand_in is not None and origin not in repair.replaced:
            repair.replaced[origin] = stand_in
            return
        block = _block_repair(owner, models)
        if name in block.one_of[1:]:
            # The block must still name something to run, though not an object that would have to exist.
            first = block.one_of[0]
            if first not in (repair.get(origin[:-1]) or {}):
                repair.added.setdefault(origin[:-1], {})[first] = block.fields[first]
        if owner is None or not _is_required(owner, name):
            repair.drop(origin)
            return
        at, origin = at[:-1], origin[:-1]
    repair.drop(())


def _stand_in(models: SpecModels | None, owner: type[BaseModel] | None, name: str, origin: Location) -> Any:
    """A value for the field `name` of an object; None if there is none."""
    if owner is None:
        return None
    if issubclass(owner, Step):
        if name == "name":
            return stand_in_name(origin)
        blocks = {kind.field: kind.stand_in for kind in owner.KINDS}
        if name in blocks:
            return blocks[name]
    if models is not None:
        steps = [models.stand_in_step]
        if issubclass(owner, Graph) and name == "steps":
            return steps
        if issubclass(owner, ScheduledWorkflow) and name == "spec":
            return {"steps": steps}
        if issubclass(owner, WorkflowScheduleSpec) and name == "workflow":
            return {"spec": {"steps": steps}}
    fields = _block_repair(owner, models).fields
    if name in fields:
        return fields[name]
    return next((made for cls, key, made in _STAND_INS if key == name and issubclass(owner, cls)), None)


def _block_repair(owner: type[BaseModel] | None, models: SpecModels | None) -> BlockRepair:
    """How to repair objects of a model that is the block of a step kind."""
    if owner is Agent:
        return _AGENT_REPAIR
    kinds = () if models is None else models.kinds
    return next((kind.repair for kind in kinds if owner is kind.block), _NO_REPAIR)


def stand_in_name(location: Location) -> str:
    """A name for the step whose name is at `location`: a DNS label that no other step has."""
    return "unnamed-" + "-".join(str(part).lower() for part in location[-3:-1])


def _is_required(owner: type[BaseModel], name: str) -> bool:
    names = dict(zip(field_names(owner), owner.model_fields.values(), strict=True))
    return name in names and names[name].is_required()
