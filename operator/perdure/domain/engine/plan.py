"""A run's snapshot, compiled: steps in order, dependencies both ways, expressions ready to evaluate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from perdure.api.base import parse_duration
from perdure.api.graph import RunSettings
from perdure.domain.engine.retry import DEFAULT_BACKOFF, Backoff
from perdure.domain.expressions.templating import compile_value
from perdure.domain.graph import topological_order
from perdure.domain.snapshot import DisruptionsSnapshot, RetrySnapshot, RunSnapshot, StepSnapshot

if TYPE_CHECKING:
    # The rules of a kind refer to plans.
    from perdure.domain.engine.step_kind import StepRules

PodRetention = Literal["Always", "OnFailure", "Never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRepeat:
    """A loop: until the expression is true, or so many iterations were made."""

    until: Any
    max_iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRetry:
    """When a failed attempt is followed by another."""

    limit: int = 0
    backoff: Backoff = DEFAULT_BACKOFF
    #: Only if this is true, if it is there.
    on: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCache:
    """Under which key a result is shared, and for how long."""

    key: Any
    ttl: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step with its strings compiled (see `templating.compile_value`)."""

    name: str
    kind: StepRules
    #: The block of its kind in camelCase, compiled by the kind.
    block: Mapping[str, Any]
    is_finally: bool
    #: Steps that must have ended before this one is evaluated.
    depends_on: tuple[str, ...]
    #: Steps that its expressions see.
    sees: tuple[str, ...]
    #: A compiled expression; None if the step has no condition of its own.
    when: Any
    is_for_each: bool
    for_each: Any
    repeat: PlannedRepeat | None
    input: Any
    retry: PlannedRetry
    disruption_limit: int
    timeout: timedelta | None
    pending_timeout: timedelta | None
    idle_timeout: timedelta | None
    continue_on_failure: bool
    parallelism: int | None
    #: Failed tasks that a `forEach` tolerates: a number, or a percentage such as "20%"; None for none.
    max_failures: int | str | None
    cache: PlannedCache | None

    @property
    def is_indexed(self) -> bool:
        """True if its tasks have numbers: one for each item, or for each iteration."""
        return self.is_for_each or self.repeat is not None

    @property
    def retry_limit(self) -> int:
        return self.retry.limit

    @property
    def timed(self) -> bool:
        """True if time alone can end an attempt."""
        return not (self.timeout is None and self.pending_timeout is None and self.idle_timeout is None)

    def tolerated_failures(self, total: int) -> int:
        """How many of `total` tasks may fail without failing the step. A percentage is rounded down."""
        if self.max_failures is None:
            return 0
        if isinstance(self.max_failures, str):
            return int(self.max_failures.rstrip("%")) * total // 100
        return self.max_failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is to do."""

    inputs: Mapping[str, Any]
    #: What the manifest says of the run as a whole, durations as they are written.
    settings: RunSettings
    timeout: timedelta | None
    #: Main and finally steps, as written.
    steps: Mapping[str, PlannedStep]
    #: Names of the main steps, each after all it depends on; then those of the finally steps, likewise.
    order: tuple[str, ...]
    finally_order: tuple[str, ...]
    outputs: Any
    retention: timedelta
    pod_retention: PodRetention


def compile_plan(snapshot: Mapping[str, Any], kinds: Iterable[StepRules]) -> Plan:
    """Compile what admission has made. Raises nothing that admission has not ruled out.

    `kinds` is the registry of step kinds: a step is of the kind whose field it has.
    """
    read = RunSnapshot.model_validate(snapshot)
    by_field = {kind.field: kind for kind in kinds}
    main = {step.name: _step(step, by_field, is_finally=False) for step in read.steps}
    last = {step.name: _step(step, by_field, is_finally=True) for step in read.finally_}
    return Plan(
        inputs=read.inputs,
        # Not the whole snapshot, which would keep each step in memory twice.
        settings=RunSettings(**{name: getattr(read, name) for name in RunSettings.model_fields}),
        timeout=_duration(read.timeout),
        steps=main | last,
        order=_order(main),
        finally_order=_order(last),
        outputs=compile_value(read.outputs),
        retention=_required_duration(read.retention.ttl_after_finished),
        pod_retention=read.retention.pods,
    )


def _order(steps: Mapping[str, PlannedStep]) -> tuple[str, ...]:
    return topological_order({name: frozenset(step.depends_on) for name, step in steps.items()})


def _step(step: StepSnapshot, kinds: Mapping[str, StepRules], *, is_finally: bool) -> PlannedStep:
    kind = next((kinds[field] for field in step.blocks if field in kinds), None)
    if kind is None:
        raise LookupError(f"step {step.name!r} of a snapshot has none of the fields {', '.join(kinds)}")
    return PlannedStep(
        name=step.name,
        kind=kind,
        block=kind.compile(step.blocks[kind.field] or {}),
        is_finally=is_finally,
        depends_on=tuple(step.depends_on),
        sees=tuple(step.depends_on if step.sees is None else step.sees),
        when=compile_value(step.when),
        is_for_each=step.is_for_each,
        for_each=compile_value(step.for_each),
        repeat=None
        if step.repeat is None
        else PlannedRepeat(until=compile_value(step.repeat.until), max_iterations=step.repeat.max_iterations),
        input=compile_value(step.input),
        retry=_retry(step.retry or RetrySnapshot()),
        disruption_limit=(step.disruptions or DisruptionsSnapshot()).limit,
        timeout=_duration(step.timeout),
        pending_timeout=_duration(step.pending_timeout),
        idle_timeout=_duration(step.idle_timeout),
        continue_on_failure=step.continue_on_failure,
        parallelism=kind.default_parallelism if step.parallelism is None else step.parallelism,
        max_failures=step.max_failures,
        cache=None
        if step.cache is None
        else PlannedCache(key=compile_value(step.cache.key), ttl=_required_duration(step.cache.ttl)),
    )


def _retry(retry: RetrySnapshot) -> PlannedRetry:
    return PlannedRetry(
        limit=retry.limit,
        backoff=Backoff(
            initial=parse_duration(retry.backoff.initial),
            factor=retry.backoff.factor,
            longest=parse_duration(retry.backoff.max),
            jitter=retry.backoff.jitter,
        ),
        on=compile_value(retry.on),
    )


def _duration(text: str | None) -> timedelta | None:
    return None if text is None else _required_duration(text)


def _required_duration(text: str) -> timedelta:
    return timedelta(seconds=parse_duration(text))
