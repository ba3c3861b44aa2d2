"""The design's budgets in one table: what was asked for, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.bench.figures import Figure
from tests.bench.table import number


class Line(NamedTuple):
    """A budget of the design, and the figure that answers to it."""

    what: str
    scenario: str
    figure: str


LINES = (
    Line("step ended → next step's pod created, idle, p50", "B1", "pod ended → next pod created p50"),
    Line("operator's requests to the API server per step", "B5", "operator requests"),
    Line("operator CPU per step", "B5", "operator CPU"),
    Line("200 chains of 10 steps on simulated nodes", "B2", "throughput"),
    Line("checkpoint of 1 KB through the gateway, durable, p50", "B9", "HTTP: 1 KB, 1 at once p50"),
    Line("commit → event at a follower, p99", "B11", "commit → follower, 1 following p99"),
    Line("pod gone → replacement created, p50", "B10", "pod gone → its replacement created p50"),
    Line("operator memory: 1,000 running and 10,000 finished runs", "B6", "operator memory at rest"),
    Line("kill -9 of the operator → first action", "B7", "exec → first pod created"),
)


def budgets_table(figures: Mapping[tuple[str, str], Figure]) -> str:
    """Markdown; a line for each budget of which there is a figure. `figures`: by scenario and name."""
    lines = ["| what | must | stretch | measured | verdict | by |", "|---|---|---|--:|---|---|"]
    for line in LINES:
        figure = figures.get((line.scenario, line.figure))
        if figure is None or figure.budget is None:
            continue
        budget = figure.budget
        must, stretch = budget.text(budget.must), budget.text(budget.stretch)
        measured = f"{number(figure.value)} {figure.unit}"
        lines.append(
            f"| {line.what} | {must} | {stretch} | {measured} | {figure.verdict} | {line.scenario} |"
        )
    return "\n".join(lines)
