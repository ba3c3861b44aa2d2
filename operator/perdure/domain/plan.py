"""A run's snapshot, compiled: steps in order, dependencies both ways, expressions ready to evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from perdure.api.base import parse_duration
from perdure.domain.graph import topological_order
from perdure.domain.templating import compile_value


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step with its strings compiled (see `templating.compile_value`)."""

    name: str
    depends_on: tuple[str, ...]
    is_for_each: bool
    for_each: Any
    #: The agent block in camelCase.
    agent: Mapping[str, Any]
    input: Any
    retry_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is to do."""

    inputs: Mapping[str, Any]
    parallelism: int | None
    steps: Mapping[str, PlannedStep]
    #: Names of the steps, each after all it depends on.
    order: tuple[str, ...]
    outputs: Any
    retention: timedelta


def compile_plan(snapshot: Mapping[str, Any]) -> Plan:
    """Compile what acceptance has made. Raises nothing that acceptance has not ruled out."""
    steps = {
        step["name"]: PlannedStep(
            name=step["name"],
            depends_on=tuple(step["dependsOn"]),
            is_for_each="forEach" in step,
            for_each=compile_value(step.get("forEach")),
            agent={
                **step["agent"],
                **{
                    field: compile_value(step["agent"][field])
                    for field in ("command", "args", "env")
                    if field in step["agent"]
                },
            },
            input=compile_value(step["input"]),
            retry_limit=step["retry"]["limit"],
        )
        for step in snapshot["steps"]
    }
    return Plan(
        inputs=snapshot["inputs"],
        parallelism=snapshot["parallelism"],
        steps=steps,
        order=topological_order({name: frozenset(step.depends_on) for name, step in steps.items()}),
        outputs=compile_value(snapshot["outputs"]),
        retention=timedelta(seconds=parse_duration(snapshot["retention"]["ttlAfterFinished"])),
    )
