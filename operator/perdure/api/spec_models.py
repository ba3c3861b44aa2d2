"""The spec models of resources that contain steps, built for a registry of step kinds.

Each is a subclass of the model of the same name in `perdure.api`, in which a step has one optional field for
each kind. So type checkers see the models of `api`, and manifests are parsed by these.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import Field, create_model

from perdure.api.base import JsonObject
from perdure.api.graph import Graph, InlineWorkflowSpec
from perdure.api.step import Step, StepFlow
from perdure.api.step_kind import StepSpec, implied_kind, joined
from perdure.api.workflow import WorkflowSpec
from perdure.api.workflowtemplate import WorkflowTemplateSpec

_Graph = TypeVar("_Graph", bound=Graph)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecModels:
    """The models that know the fields of the given kinds."""

    kinds: tuple[StepSpec, ...]
    step: type[Step]
    workflow: type[WorkflowSpec]
    workflow_template: type[WorkflowTemplateSpec]
    inline_workflow: type[InlineWorkflowSpec]
    #: A step in place of one that cannot be read, as in a manifest. Its kind is the one that takes the fewest
    #: fields, so that nothing is reported about `defaults` in the name of a step that was never written.
    stand_in_step: JsonObject


@lru_cache(maxsize=8)
def spec_models(kinds: tuple[StepSpec, ...]) -> SpecModels:
    """The models for a registry. Raises ValueError unless exactly one kind is the implied one."""
    implied_kind(kinds)
    step = _step_model(kinds)
    simplest = max(kinds, key=lambda kind: sum(len(excluded.fields) for excluded in kind.excludes))
    return SpecModels(
        kinds=kinds,
        step=step,
        workflow=_graph_model(WorkflowSpec, step),
        workflow_template=_graph_model(WorkflowTemplateSpec, step),
        inline_workflow=_graph_model(InlineWorkflowSpec, step),
        stand_in_step={"name": "unknown", simplest.field: simplest.stand_in},
    )


def _step_model(kinds: tuple[StepSpec, ...]) -> type[Step]:
    fields: dict[str, Any] = {
        kind.field: (kind.block | None, Field(default=None, description=kind.description)) for kind in kinds
    }
    blocks = create_model("StepBlocks", __base__=StepFlow, __module__=__name__, **fields)
    what = joined([kind.noun for kind in kinds], "or")
    bases: Any = (Step, blocks)
    made: type[Step] = create_model(
        "Step",
        __base__=bases,
        __module__=__name__,
        __doc__=f"One line of the graph: {what}; once, once for each item, or repeated.",
    )
    made.KINDS = kinds
    return made


def _graph_model(base: type[_Graph], step: type[Step]) -> type[_Graph]:
    """`base`, its lists of steps made of `step`; bounds, names and defaults stay those of `base`."""
    fields: dict[str, Any] = {
        name: (list[step], copy(base.model_fields[name]))  # type: ignore[valid-type] # a model made here
        for name in ("steps", "finally_")
    }
    made = create_model(base.__name__, __base__=base, __module__=__name__, __doc__=base.__doc__, **fields)
    made.STEP = step
    return made
