"""The names that the expressions of one step, or of one of its tasks, see; what is costly is found once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.scope import (
    Records,
    evaluate_items,
    item_scope,
    iteration_scope,
    scope,
    step_values,
)
from perdure.domain.engine.view import Evaluated
from perdure.domain.expressions.evaluation import Evaluation, Names


class ScopeSource(Records, Protocol):
    """A run as committed, or as a decision changes it, with a place for what was evaluated."""

    def items_of(self, step: str) -> list[Any] | None: ...

    def step_values_of(self, step: str) -> Mapping[str, Any] | None: ...

    def remember(self, step: PlannedStep) -> Evaluated: ...


class TaskScope:
    """The names that the expressions of one task see, evaluated at their first use.

    `source` is a view, once a decision is committed, or the change set of a decision. See `Names` for
    `evaluation`.
    """

    __slots__ = ("_evaluation", "_index", "_names", "_source", "_step")

    def __init__(
        self, source: ScopeSource, step: PlannedStep, index: int, evaluation: Evaluation | None = None
    ) -> None:
        self._source = source
        self._step = step
        self._index = index
        self._evaluation = evaluation
        self._names: Names | None = None

    @property
    def names(self) -> Names:
        """Values by name. Raises ExpressionError if `forEach` fails, EvaluationPending if it has to wait."""
        if self._names is None:
            self._names = self._evaluate()
        return self._names

    def _evaluate(self) -> Names:
        source, step, evaluation = self._source, self._step, self._evaluation
        names = names_of_step(source, step, evaluation)
        if step.repeat is not None:
            return iteration_scope(source, step.name, names, self._index)
        return item_scope(
            names, items_of(source, step, evaluation) if step.is_for_each else None, self._index
        )


def names_of_step(source: ScopeSource, step: PlannedStep, evaluation: Evaluation | None) -> Names:
    """The names that a step's own expressions see: `when`, `forEach`."""
    values = source.step_values_of(step.name)
    if values is None:
        values = step_values(source, step.sees)
        source.remember(step).step_values[step.name] = values
    return scope(source, values, is_finally=step.is_finally, evaluation=evaluation)


def items_of(source: ScopeSource, step: PlannedStep, evaluation: Evaluation | None = None) -> list[Any]:
    """The items of a step's `forEach`, which follow from inputs and steps that have ended.

    Raises ExpressionError and EvaluationPending.
    """
    items = source.items_of(step.name)
    if items is None:
        items = evaluate_items(step, names_of_step(source, step, evaluation))
        source.remember(step).items[step.name] = items
    return items
