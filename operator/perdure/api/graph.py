"""The graph of steps: the fields that Workflow and WorkflowTemplate share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from perdure.api.base import LIST_WHOLE, JsonMap, JsonObject, Model, Timeout
from perdure.api.policies import Retention
from perdure.api.step import MAX_ITEMS, Defaults, Step
from perdure.api.step_kind import FREE_FORM, StepSpec, joined

MAX_STEPS: Final = 500
MAX_FINALLY_STEPS: Final = 50
MAX_PRIORITY: Final = 1000
MAX_INPUT_BYTES: Final = 64 * 1024


class OverTemplate(Enum):
    """The marker of a field that a Workflow may give next to `templateRef`; its value wins."""

    OVER_TEMPLATE = auto()


OVER_TEMPLATE: Final = OverTemplate.OVER_TEMPLATE


def _step_rules(kinds: Sequence[StepSpec]) -> Iterator[tuple[str, str]]:
    """What must hold for each step `s`, with its message. CEL rules see no free-form fields (`FREE_FORM`)."""
    yield (
        "!(has(s.dependsOn) && s.name in s.dependsOn)",
        "a step cannot depend on itself: remove its name from its dependsOn",
    )
    yield (
        f"{' + '.join(f'(has(s.{kind.field}) ? 1 : 0)' for kind in kinds)} <= 1",
        f"a step has at most one of {joined([kind.field for kind in kinds], 'and')}: make a step of each",
    )
    for kind in kinds:
        yield from kind.cel_rules
        for excluded in kind.excludes:
            seen = [name for name in excluded.fields if name not in FREE_FORM]
            if seen:
                yield (
                    f"!has(s.{kind.field}) || !({' || '.join(f'has(s.{name})' for name in seen)})",
                    f"a step with {kind.field} takes no {joined(seen, 'or')}: {excluded.remedy_for_all}",
                )


def graph_rules(made: Callable[..., JsonObject], kinds: Sequence[StepSpec]) -> list[JsonObject]:
    """The CEL rules of a graph, each made by `made`: `rule`, or `rule_on_create` where nothing can change."""
    found = []
    for field in ("steps", "finally"):

        def every(text: str, field: str = field) -> str:
            return f"!has(self.{field}) || self.{field}.all(s, {text})"

        found += [made(every(text), message, path=f".{field}") for text, message in _step_rules(kinds)]
        for kind in kinds:
            others = [other for other in kinds if other is not kind]
            if (whole := kind.graph_rule(every, others)) is not None:
                found.append(made(*whole, path=f".{field}"))
    names = " + ".join(f"(has(self.{it}) ? self.{it}.map(s, s.name) : [])" for it in ("steps", "finally"))
    found.append(
        made(
            # The list of one binds the names to a variable. A list map would express the rule too, but its
            # bookkeeping would be stored with every object.
            f"[{names}].all(names, names.all(n, names.indexOf(n) == names.lastIndexOf(n)))",
            "two steps have the same name: give each its own, steps and finally steps alike",
            path=".steps",
        )
    )
    return found


class RunSettings(Model):
    """The fields of a graph that its run takes over as they are: into the snapshot, and into the plan.

    The bounds of a field only ever widen: snapshots that earlier versions wrote are read with this model. A
    field with the marker `OVER_TEMPLATE` may stand next to `templateRef`, and wins over the template's.
    """

    #: Tasks that may be unfinished at once; no limit if left out.
    parallelism: Annotated[Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None, OVER_TEMPLATE] = None
    #: Which run's tasks start first when runs compete for places: the higher number. Default: 0.
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY), OVER_TEMPLATE] = 0
    #: How long the run may take, `finally` aside; then it is stopped and fails (`Timeout`).
    timeout: Annotated[Timeout | None, OVER_TEMPLATE] = None
    #: What a failed step means to the others: FinishRunning starts no further step, CancelRunning stops the
    #: running ones too, RunAll goes on with all that can still run. Default: FinishRunning.
    failure_policy: Literal["FinishRunning", "CancelRunning", "RunAll"] = "FinishRunning"


class Graph(RunSettings):
    """Steps, what holds for all of them, and what comes out."""

    #: The model of a step; a subclass that parses manifests sets the one that has the kinds' fields.
    STEP: ClassVar[type[Step]] = Step

    #: How long the run and its history are kept after its end.
    retention: Annotated[Retention, OVER_TEMPLATE] = Retention()
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


def over_template(model: type[Model]) -> frozenset[str]:
    """The names of the fields that may stand next to `templateRef`."""
    return frozenset(name for name, field in model.model_fields.items() if OVER_TEMPLATE in field.metadata)


class InlineWorkflowSpec(Graph):
    """A workflow written out in a `workflow` step: its inputs are next to it, in `workflow.inputs`."""
