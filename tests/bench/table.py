"""The tables that people see when a benchmark has run."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.figures import Figure, Result

_STYLES = {"met": "green", "stretch": "bold green", "missed": "red", "": ""}


def show(result: Result, console: Console) -> None:
    """The table of a scenario, and its faults."""
    parameters = ", ".join(f"{name} {value}" for name, value in result.parameters.items())
    if not result.full:
        parameters += "; smaller than defined: the verdicts prove nothing"
    table = Table(title=f"{result.scenario}: {result.title}", caption=parameters, title_justify="left")
    for name in ("what", "value", "unit", "worst", "samples", "must", "stretch", "verdict"):
        table.add_column(name, justify="right" if name in ("value", "worst", "samples") else "left")
    for figure in result.figures:
        *cells, verdict = row(figure)
        style = _STYLES[verdict]
        table.add_row(*map(escape, cells), f"[{style}]{verdict}[/]" if style else verdict)
    console.print(table)
    for note in result.notes:
        console.print(f"  {escape(note)}", highlight=False)
    if machine := result.details.get("machine"):
        console.print(f"  machine before: {machine['before']}, after: {machine['after']}", highlight=False)
    for fault in result.faults:
        console.print(f"[bold red]{result.scenario}: {escape(fault)}[/]")


def row(figure: Figure) -> list[str]:
    """The cells of a figure's line; the verdict is the last."""
    budget = figure.budget
    return [
        figure.name,
        number(figure.value),
        figure.unit,
        "" if figure.worst is None else number(figure.worst),
        str(figure.samples),
        "" if budget is None else budget.text(budget.must),
        "" if budget is None else budget.text(budget.stretch),
        figure.verdict,
    ]


def show_facts(facts: dict[str, Any], console: Console) -> None:
    """The machine, one line each."""
    for name, value in facts.items():
        console.print(f"  {name}: {value}", markup=False, highlight=False)


def number(value: float) -> str:
    """A number with its significant digits only."""
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
