"""Workflow: one run of a graph of steps."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from perdure.api.base import LIST_WHOLE, JsonMap, JsonObject, ObjectName, is_free_form, rule_on_create, rules
from perdure.api.graph import (
    MAX_FINALLY_STEPS,
    MAX_INPUT_BYTES,
    MAX_PRIORITY,
    MAX_STEPS,
    OVER_TEMPLATE,
    Graph,
    graph_rules,
)
from perdure.api.step import MAX_DEPENDENCIES, MAX_ITEMS, MAX_ITERATIONS, Step
from perdure.api.step_kind import joined

__all__ = [
    "EXCLUDED_BY_TEMPLATE",
    "FIXED",
    "MAX_DEPENDENCIES",
    "MAX_FINALLY_STEPS",
    "MAX_INPUT_BYTES",
    "MAX_ITEMS",
    "MAX_ITERATIONS",
    "MAX_PRIORITY",
    "MAX_STEPS",
    "WorkflowSpec",
]

_VISIBLE: Final = {name: it for name, it in Graph.fields().items() if not is_free_form(it)}
#: Fields that exclude `templateRef`, as far as rules see them.
_OF_THE_TEMPLATE: Final = tuple(name for name, it in _VISIBLE.items() if OVER_TEMPLATE not in it.metadata)


def _add_rules(schema: JsonObject, model: type[WorkflowSpec]) -> None:
    """Put the CEL rules of a Workflow into its schema, those of the model's step kinds included."""
    given = " || ".join(f"has(self.{name})" for name in _OF_THE_TEMPLATE)
    schema |= rules(
        rule_on_create(
            "has(self.templateRef) != has(self.steps)",
            "takes exactly one of steps and templateRef",
        ),
        rule_on_create(
            f"!has(self.templateRef) || !({given})",
            f"takes no {joined(_OF_THE_TEMPLATE, 'or')} next to it: they come from the template",
            path=".templateRef",
        ),
        *graph_rules(rule_on_create, model.STEP.KINDS),
    )


class WorkflowSpec(Graph):
    """What a person writes to start a run. But for `desiredState` it cannot be changed afterwards."""

    model_config = ConfigDict(json_schema_extra=_add_rules)

    #: Name of a WorkflowTemplate in the same namespace, instead of `steps`. A run takes a copy of it when it
    #: starts. Besides it only `inputs`, `desiredState`, and, winning over the template's, `parallelism`,
    #: `priority`, `timeout` and `retention` may stand.
    template_ref: ObjectName | None = None
    #: Values that expressions see as `inputs.<name>`: any JSON, at most 64 KiB in all.
    inputs: JsonMap = {}
    #: Running; Paused: starts nothing, lets agents save a checkpoint, and holds no pods; or Cancelled: stops
    #: everything, for good. May be changed while the run is live. Default: Running.
    desired_state: Literal["Running", "Paused", "Cancelled"] = "Running"
    # Not needed if there is a templateRef.
    #: The graph. Its order means nothing: a step starts when those it depends on or refers to have ended.
    steps: Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS, json_schema_extra=LIST_WHOLE)] = []


#: Fields that a Workflow with a `templateRef` cannot have.
EXCLUDED_BY_TEMPLATE: Final = frozenset(
    name for name, it in Graph.fields().items() if OVER_TEMPLATE not in it.metadata
)
_OWN: Final = {name: it for name, it in WorkflowSpec.fields().items() if name not in Graph.fields()}
#: Fields that cannot be changed, as far as rules see them.
FIXED: Final = (
    *(name for name, it in _OWN.items() if name != "desiredState" and not is_free_form(it)),
    *(name for name in _VISIBLE if name not in _OF_THE_TEMPLATE),
    *_OF_THE_TEMPLATE,
)
