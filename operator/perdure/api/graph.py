"""The graph of steps: what a Workflow and a WorkflowTemplate say in the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import Field

from perdure.api.base import LIST_WHOLE, JsonMap, JsonObject, Model, Timeout
from perdure.api.policies import Retention
from perdure.api.step import MAX_ITEMS, Defaults, Step

MAX_STEPS: Final = 500
MAX_FINALLY_STEPS: Final = 50
MAX_PRIORITY: Final = 1000
MAX_INPUT_BYTES: Final = 64 * 1024

_NAMES_CONTAINER: Final = "has({0}.agent) && (has({0}.agent.image) || has({0}.agent.templateRef))"

#: What must hold for each step `s`, and what is said if it does not. Rules see no free-form fields: what is
#: to be said of `forEach` and `input` is in the ValidatingAdmissionPolicy.
_STEP_RULES: Final = (
    (
        "!(has(s.dependsOn) && s.name in s.dependsOn)",
        "a step cannot depend on itself: remove its name from its dependsOn",
    ),
    (
        "(has(s.agent) ? 1 : 0) + (has(s.wait) ? 1 : 0) + (has(s.workflow) ? 1 : 0) <= 1",
        "a step has at most one of agent, wait and workflow: make a step of each",
    ),
    (
        "!has(s.wait) || !(has(s.retry) || has(s.disruptions) || has(s.timeout) || has(s.pendingTimeout)"
        " || has(s.idleTimeout) || has(s.cache) || has(s.repeat))",
        "a step with wait takes no retry, disruptions, timeout, pendingTimeout, idleTimeout, cache or repeat:"
        " remove them",
    ),
    (
        "!has(s.workflow) || has(s.workflow.templateRef) != has(s.workflow.spec)",
        "workflow takes exactly one of templateRef and spec",
    ),
    (
        "!has(s.workflow) || !(has(s.pendingTimeout) || has(s.idleTimeout))",
        "a step with workflow takes no pendingTimeout or idleTimeout: they belong to that workflow's steps",
    ),
)


def graph_rules(made: Callable[..., JsonObject]) -> list[JsonObject]:
    """The CEL rules of a graph, each made by `made`: `rule`, or `rule_on_create` where nothing can change."""
    found = []
    for field in ("steps", "finally"):
        every = f"!has(self.{field}) || self.{field}.all(s, {{}})"
        found += [made(every.format(text), message, path=f".{field}") for text, message in _STEP_RULES]
        found.append(
            made(
                f"(has(self.defaults) && {_NAMES_CONTAINER.format('self.defaults')}) || "
                + every.format(f"has(s.wait) || has(s.workflow) || ({_NAMES_CONTAINER.format('s')})"),
                "every step needs agent.image or agent.templateRef, its own or one in spec.defaults.agent,"
                " or else wait or workflow",
                path=f".{field}",
            )
        )
    names = " + ".join(f"(has(self.{it}) ? self.{it}.map(s, s.name) : [])" for it in ("steps", "finally"))
    found.append(
        made(
            # The list of one gives the names a name. A list map would say it too, but its bookkeeping is kept
            # with every object.
            f"[{names}].all(names, names.all(n, names.indexOf(n) == names.lastIndexOf(n)))",
            "two steps have the same name: give each its own, steps and finally steps alike",
            path=".steps",
        )
    )
    return found


class Graph(Model):
    """Steps, what holds for all of them, and what comes out."""

    #: Tasks that may be unfinished at once; no limit if left out.
    parallelism: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    #: Which run's tasks start first when runs compete for places: the higher number. Default: 0.
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    #: How long the run may take, `finally` aside; then it is stopped and fails (`Timeout`).
    timeout: Timeout | None = None
    #: What a failed step means to the others: FinishRunning starts no further step, CancelRunning stops the
    #: running ones too, RunAll goes on with all that can still run. Default: FinishRunning.
    failure_policy: Literal["FinishRunning", "CancelRunning", "RunAll"] = "FinishRunning"
    #: How long the run and its history are kept after its end.
    retention: Retention = Retention()
    #: What steps use where they say nothing themselves.
    defaults: Defaults = Defaults()
    #: The graph. Its order means nothing: a step starts when those it depends on or refers to have ended.
    steps: Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS, json_schema_extra=LIST_WHOLE)]
    #: Steps that run when all others have ended, however they did; they see `workflow.phase` and
    #: `workflow.failures`.
    finally_: Annotated[
        list[Step], Field(alias="finally", max_length=MAX_FINALLY_STEPS, json_schema_extra=LIST_WHOLE)
    ] = []
    #: The run's outputs: values with `${}` expressions, evaluated when it succeeds.
    outputs: JsonMap = {}


class InlineWorkflowSpec(Graph):
    """A workflow written out in a `workflow` step: its inputs stand beside it, in `workflow.inputs`."""
