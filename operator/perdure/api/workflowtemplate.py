"""WorkflowTemplate: a graph of steps with typed parameters. A run takes a copy when it starts."""

from __future__ import annotations

from typing import Final

from pydantic import ConfigDict

from perdure.api.base import FreeObject, rule, rules
from perdure.api.graph import Graph, graph_rules

MAX_PARAMETERS_BYTES: Final = 64 * 1024


class WorkflowTemplateSpec(Graph):
    """The fields of a Workflow, flat. It may be edited: runs that have started keep the copy they took."""

    model_config = ConfigDict(json_schema_extra=rules(*graph_rules(rule)))

    #: A JSON Schema (2020-12) of the inputs, which are an object; its defaults fill in what a run leaves out.
    #: At most 64 KiB. Default: any inputs.
    parameters: FreeObject | None = None
