"""WorkflowTemplate: a graph of steps with typed parameters. A run takes a copy when it starts."""

from __future__ import annotations

from typing import Final

from pydantic import ConfigDict

from perdure.api.base import FreeObject, JsonObject, rule, rules
from perdure.api.graph import Graph, graph_rules

MAX_PARAMETERS_BYTES: Final = 64 * 1024


def _add_rules(schema: JsonObject, model: type[WorkflowTemplateSpec]) -> None:
    """Put the CEL rules of a WorkflowTemplate into its schema, those of the model's step kinds included."""
    schema |= rules(*graph_rules(rule, model.STEP.KINDS))


class WorkflowTemplateSpec(Graph):
    """The fields of a Workflow, flat. It may be edited: runs that have started keep the copy they took."""

    model_config = ConfigDict(json_schema_extra=_add_rules)

    #: A JSON Schema (2020-12) of the inputs, which are an object; its defaults fill in what a run leaves out.
    #: At most 64 KiB. Default: any inputs.
    parameters: FreeObject | None = None
