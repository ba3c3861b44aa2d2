"""A step: one line of the graph, and the constructs that it may use."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from perdure.api.agent import Agent
from perdure.api.base import (
    APPLIED_WHOLE,
    EXPRESSION_PATTERN,
    LIST_SET,
    MAX_COUNT,
    MAX_EXPRESSION,
    DnsLabel,
    Expression,
    Json,
    JsonMap,
    Model,
    ObjectName,
    Share,
    Timeout,
    parse_duration,
)
from perdure.api.policies import Disruptions, Retry

MAX_ITEMS: Final = MAX_COUNT
MAX_DEPENDENCIES: Final = 100
MAX_ITERATIONS: Final = 1000

#: Workflows in each other: a run, its child, and so on down.
MAX_WORKFLOW_DEPTH: Final = 8

_RFC_3339: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"
_ONE_OF_TWO: Final[JsonDict] = {"minProperties": 1, "maxProperties": 1}


def _is_expression(text: str) -> bool:
    return re.fullmatch(EXPRESSION_PATTERN, text) is not None


def _checked_wait(text: str) -> str:
    if _is_expression(text):
        return text.strip()
    parse_duration(text)
    return text


def parse_time(text: str) -> datetime:
    """The aware time in RFC 3339 text such as `2026-11-21T08:00:00Z`. Raises ValueError, naming that form."""
    try:
        if re.fullmatch(_RFC_3339, text, re.ASCII):
            return datetime.fromisoformat(text)
    except ValueError:
        pass  # a day or an hour that there is not
    raise ValueError(f"{text!r} is not a time with a zone; write it like 2026-11-21T08:00:00Z")


def _checked_until(text: str) -> str:
    if _is_expression(text):
        return text.strip()
    parse_time(text)
    return text


_WaitDuration = Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION), AfterValidator(_checked_wait)]
_WaitUntil = Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION), AfterValidator(_checked_until)]
#: Not as other free-form objects are: rules must see whether it is there.
_InlineSpec = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]


class Wait(Model):
    """A step that only waits: for a duration or until a time, exactly one of them."""

    model_config = ConfigDict(json_schema_extra=_ONE_OF_TWO)

    #: How long, from the moment at which the step could start: such as `10m`, or one `${}` expression that
    #: gives such text or a duration.
    duration: _WaitDuration | None = None
    #: Until when: a time such as `2026-11-21T08:00:00Z`, or one `${}` expression that gives such text or a
    #: timestamp. A time that has passed ends the step at once.
    until: _WaitUntil | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Wait:
        if (self.duration is None) == (self.until is None):
            raise ValueError("takes exactly one of duration and until")
        return self


class Repeat(Model):
    """Runs the step again and again, each time as a task of its own, until an expression is true."""

    #: One `${}` expression over `last`, the newest output, and `index`, the number of the iteration, from 0;
    #: looked at after each iteration.
    until: Expression
    #: Iterations after which the step fails (`MaxIterations`) if `until` is still false.
    max_iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS)]


class ChildWorkflow(Model):
    """A step that is a Workflow of its own; its outputs are the step's output."""

    #: Name of a WorkflowTemplate in the same namespace.
    template_ref: ObjectName | None = None
    #: The Workflow written out instead: the fields of a WorkflowTemplate but `parameters`. Its expressions
    #: are its own: they see its inputs and steps, not those of the workflow around it.
    spec: _InlineSpec | None = None
    #: Its inputs; strings may hold `${}` expressions of the workflow around it.
    inputs: JsonMap = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> ChildWorkflow:
        if (self.template_ref is None) == (self.spec is None):
            raise ValueError("takes exactly one of templateRef and spec")
        return self


class Cache(Model):
    """Takes over the result that a task with an equal key had before, in any run of the namespace."""

    #: What results are found by: text with `${}` expressions, or one expression whose value counts.
    key: Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION)]
    #: How long a result is found, from the moment at which it was committed. Default: 168h.
    ttl: Timeout = "168h"


class Step(Model):
    """One line of the graph: an agent, a wait or a workflow; once, once for each item, or repeated."""

    #: Name of the step, unique in the run; other steps refer to it as `steps.<name>`.
    name: DnsLabel
    #: Steps to wait for, beside those that expressions refer to.
    depends_on: Annotated[list[DnsLabel], Field(max_length=MAX_DEPENDENCIES, json_schema_extra=LIST_SET)] = []
    #: One `${}` expression, looked at once all dependencies have ended: true runs the step, whatever became
    #: of them, false skips it. Default: it runs if all dependencies succeeded, or failed with
    #: `continueOnFailure`.
    when: Expression | None = None
    #: Runs the step once for each item: a literal list or map, or one `${}` expression that gives one;
    #: at most 10,000 items. The item is `item` in expressions (of a map: `item.key`, `item.value`), its
    #: number, from 0, is `index`.
    for_each: Json = None
    #: Runs the step again and again. Not together with `forEach`.
    repeat: Repeat | None = None
    #: The container that does the work; what it leaves out comes from `spec.defaults.agent`.
    agent: Agent | None = None
    #: Waits instead of running an agent.
    wait: Wait | None = None
    #: Runs another workflow instead of an agent.
    workflow: ChildWorkflow | None = None
    #: What the agent finds in its input file; strings may hold `${}` expressions. Default: {}.
    input: Json = None
    #: How often a failed task is tried again. Default: `spec.defaults.retry`.
    retry: Retry | None = None
    #: How many attempts may be lost to disruptions. Default: `spec.defaults.disruptions`.
    disruptions: Disruptions | None = None
    #: How long one attempt may run, from the start of its container. Default: `spec.defaults.timeout`.
    timeout: Timeout | None = None
    #: How long an attempt may wait for its container to start. Default: `spec.defaults.pendingTimeout`.
    pending_timeout: Timeout | None = None
    #: How long an attempt may give no sign of life: no heartbeat, progress or checkpoint. Default:
    #: `spec.defaults.idleTimeout`.
    idle_timeout: Timeout | None = None
    #: Whether a failure of this step is tolerated: it fails neither the run nor what depends on the step.
    #: Default: false.
    continue_on_failure: bool = False
    #: Tasks of this step that may be unfinished at once; with `forEach` only.
    parallelism: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    #: Tasks of this step that may fail without failing it: a number, or a percentage such as `20%`; with
    #: `forEach` only. Default: 0.
    max_failures: Share | None = None
    #: Reuses results. Of agents and workflows, not of waits.
    cache: Cache | None = None


class Defaults(Model):
    """What steps use where they say nothing themselves."""

    model_config = ConfigDict(json_schema_extra=APPLIED_WHOLE)

    #: Fields of the agent block that steps may leave out.
    agent: Agent | None = None
    #: How often a failed task is tried again.
    retry: Retry | None = None
    #: How many attempts may be lost to disruptions.
    disruptions: Disruptions | None = None
    #: How long one attempt may run, from the start of its container.
    timeout: Timeout | None = None
    #: How long an attempt may wait for its container to start.
    pending_timeout: Timeout | None = None
    #: How long an attempt may give no sign of life.
    idle_timeout: Timeout | None = None
