"""The names that the expressions of one step, or of one of its tasks, see; what is costly is found once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.scope import evaluate_items, item_scope, iteration_scope, scope, step_values


def names_of_step(changes: ChangeSet, step: PlannedStep) -> Mapping[str, Any]:
    """The names that a step's own expressions see: `when`, `forEach`."""
    values = changes.step_values_of(step.name)
    if values is None:
        values = step_values(changes, step.sees)
        changes.remember(step).step_values[step.name] = values
    return scope(changes, values, is_finally=step.is_finally)


def names_of_task(changes: ChangeSet, step: PlannedStep, index: int) -> Mapping[str, Any]:
    """The names that the expressions of one task see. Raises ExpressionError if `forEach` fails."""
    names = names_of_step(changes, step)
    if step.repeat is not None:
        return iteration_scope(changes, step.name, names, index)
    return item_scope(names, items_of(changes, step) if step.is_for_each else None, index)


def items_of(changes: ChangeSet, step: PlannedStep) -> list[Any]:
    """The items of a step's `forEach`, which follow from inputs and steps that have ended."""
    items = changes.items_of(step.name)
    if items is None:
        items = evaluate_items(step, names_of_step(changes, step))
        changes.remember(step).items[step.name] = items
    return items
