"""How a cost grows with a number of things, as one exponent, and the charts of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.svg import Panel, draw

#: Title of each chart, with the unit, by the key of a point.
MEASURES = {
    "steps_per_second": "throughput, steps/s",
    "cpu_ms_per_step": "operator CPU, ms per step",
    "memory_mib": "operator memory, MiB",
}
AXES = {"concurrent": "runs at once", "finished": "finished runs kept"}


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The power of x that y grows with, by least squares of the logarithms: 0 not at all, 1 linearly.

    Raises ValueError for fewer than two different counts, or what has no logarithm.
    """
    if len({x for x, _ in points}) < 2 or min(min(x, y) for x, y in points) <= 0:
        raise ValueError("two different counts with positive values are wanted")
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


def series(growth: Mapping[str, Any], axis: str, measure: str) -> list[tuple[float, float]]:
    """Points of one chart from the JSON of the scenario `growth`."""
    return [(point["runs"], point[measure]) for point in growth.get(axis, ())]


def charts(growth: Mapping[str, Any]) -> str:
    """The SVG of all of it."""
    return draw(
        [
            Panel(title, AXES[axis], tuple(series(growth, axis, measure)))
            for axis in AXES
            if growth.get(axis)
            for measure, title in MEASURES.items()
        ],
        columns=len(MEASURES),
    )
