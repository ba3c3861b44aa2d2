"""Workflow: one run of a graph of steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from perdure.api.agent import Agent, Retention, Retry
from perdure.api.base import (
    APPLIED_WHOLE,
    LIST_SET,
    DnsLabel,
    Json,
    Model,
    list_map,
    rule,
    rule_on_create,
    rules,
)

MAX_STEPS = 500
MAX_ITEMS = 10_000
MAX_DEPENDENCIES = 100
MAX_INPUT_BYTES = 64 * 1024

_ON_ITSELF = "has(s.dependsOn) && s.name in s.dependsOn"
_NAMES_CONTAINER = "has({0}.agent) && (has({0}.agent.image) || has({0}.agent.templateRef))"


class Step(Model):
    """One line of the graph: an agent run once, or once for each item of a list."""

    #: Name of the step, unique in the run; other steps refer to it as `steps.<name>`.
    name: DnsLabel
    #: Steps to wait for, beside those that expressions refer to.
    depends_on: Annotated[list[DnsLabel], Field(max_length=MAX_DEPENDENCIES, json_schema_extra=LIST_SET)] = []
    #: Runs the step once for each item: a literal list or map, or one `${}` expression that gives one;
    #: at most 10,000 items. The item is `item` in expressions (of a map: `item.key`, `item.value`), its
    #: number, from 0, is `index`.
    for_each: Json = None
    #: The container that does the work; what it leaves out comes from `spec.defaults.agent`.
    agent: Agent | None = None
    #: What the agent finds in its input file; strings may hold `${}` expressions. Default: {}.
    input: Json = None
    #: How often a failed task is tried again. Default: `spec.defaults.retry`.
    retry: Retry | None = None


class Defaults(Model):
    """What steps use where they say nothing themselves."""

    #: Fields of the agent block that steps may leave out.
    agent: Agent | None = None
    #: How often a failed task is tried again.
    retry: Retry | None = None


class WorkflowSpec(Model):
    """What a person writes to start a run. It cannot be changed afterwards."""

    model_config = ConfigDict(
        json_schema_extra=APPLIED_WHOLE
        | rules(
            rule(
                "self == oldSelf",
                "cannot be changed once it is applied: apply it under a new name, or delete this Workflow"
                " and apply it again",
            ),
            rule_on_create(
                f"(has(self.defaults) && {_NAMES_CONTAINER.format('self.defaults')})"
                f" || self.steps.all(s, {_NAMES_CONTAINER.format('s')})",
                "every step needs agent.image or agent.templateRef, its own or one in spec.defaults.agent",
                path=".steps",
            ),
            rule_on_create(
                f"self.steps.all(s, !({_ON_ITSELF}))",
                "a step cannot depend on itself: remove its name from its dependsOn",
                path=".steps",
            ),
        )
    )

    #: Values that expressions see as `inputs.<name>`: any JSON, at most 64 KiB in all.
    inputs: dict[str, Json] = {}
    #: Tasks that may be unfinished at once; no limit if left out.
    parallelism: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    #: How long the run and its history are kept after its end.
    retention: Retention = Retention()
    #: What steps use where they say nothing themselves.
    defaults: Defaults = Defaults()
    #: The graph. Its order means nothing: a step starts when those it depends on or refers to have ended.
    steps: Annotated[
        list[Step], Field(min_length=1, max_length=MAX_STEPS, json_schema_extra=list_map("name"))
    ]
    #: The run's outputs: values with `${}` expressions, evaluated when it succeeds.
    outputs: dict[str, Json] = {}
