"""A step: one line of the graph, with the fields that all kinds of step have.

The block that says what a step does belongs to the step's kind and is opaque here. The model that parses
manifests is a subclass with one field for each kind (`perdure.api.spec_models`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from perdure.api.agent import Agent
from perdure.api.base import (
    APPLIED_WHOLE,
    LIST_SET,
    MAX_COUNT,
    MAX_EXPRESSION,
    DnsLabel,
    Expression,
    Json,
    Model,
    Share,
    Timeout,
)
from perdure.api.policies import Disruptions, Retry
from perdure.api.step_kind import StepSpec, kind_of

MAX_ITEMS: Final = MAX_COUNT
MAX_DEPENDENCIES: Final = 100
MAX_ITERATIONS: Final = 1000

#: Workflows in each other: a run, its child, and so on down.
MAX_WORKFLOW_DEPTH: Final = 8
#: Workflows that one run may create, with those that its children create.
MAX_DESCENDANTS: Final = 10_000
#: Unfinished children of a `workflow` step with `forEach` that says nothing about parallelism.
CHILD_PARALLELISM: Final = 100


class Repeat(Model):
    """Runs the step again and again, each time as a task of its own, until an expression is true."""

    #: One `${}` expression over `last`, the newest output, and `index`, the number of the iteration, from 0;
    #: evaluated after each iteration.
    until: Expression
    #: Iterations after which the step fails (`MaxIterations`) if `until` is still false.
    max_iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS)]


class Cache(Model):
    """Takes over the result that a task with an equal key had before, in any run of the namespace."""

    #: What results are found by: text with `${}` expressions, or one expression whose value counts.
    key: Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION)]
    #: How long a result is found, from the moment at which it was committed. Default: 168h.
    ttl: Timeout = "168h"


class StepFlow(Model):
    """The fields that say when a step runs, and how many tasks it has."""

    #: Name of the step, unique in the run; other steps refer to it as `steps.<name>`.
    name: DnsLabel
    #: Steps to wait for, besides those that expressions refer to.
    depends_on: Annotated[list[DnsLabel], Field(max_length=MAX_DEPENDENCIES, json_schema_extra=LIST_SET)] = []
    #: One `${}` expression, evaluated once all dependencies have ended: true runs the step, whatever became
    #: of them, false skips it. Default: it runs if all dependencies succeeded, or failed with
    #: `continueOnFailure`.
    when: Expression | None = None
    #: Runs the step once for each item: a literal list or map, or one `${}` expression that gives one;
    #: at most 10,000 items. The item is `item` in expressions (of a map: `item.key`, `item.value`), its
    #: number, from 0, is `index`.
    for_each: Json = None
    #: Runs the step again and again. Not together with `forEach`.
    repeat: Repeat | None = None


class StepEffort(Model):
    """The fields that say what a step is given, how hard the run tries, and which failures are tolerated."""

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
    #: Tasks of this step that may be unfinished at once; with `forEach` only. Default: no limit, and 100 for
    #: a `workflow` step.
    parallelism: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    #: Tasks of this step that may fail without failing it: a number, or a percentage such as `20%`; with
    #: `forEach` only. Default: 0.
    max_failures: Share | None = None
    #: Reuses results. Of agents and workflows, not of waits.
    cache: Cache | None = None


class Step(StepEffort, StepFlow):
    """One line of the graph, with the fields that all kinds of step have.

    pydantic takes the fields of bases from the last to the first. A subclass that puts a class of blocks
    between these two bases therefore has its blocks in the middle, where `kubectl explain` shows them.
    """

    #: The kinds that a step may have; set by the subclass that has their fields.
    KINDS: ClassVar[tuple[StepSpec, ...]] = ()

    @property
    def kind(self) -> StepSpec:
        """The kind of the step: that of its block, or the implied kind."""
        return kind_of(lambda name: getattr(self, name) is not None, self.KINDS)

    @property
    def block(self) -> Model | None:
        """The block of the step's kind; None if the kind is implied and the step has no block."""
        found: Model | None = getattr(self, self.kind.field)
        return found


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
