"""The table for people, and the JSON for the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.figures import Result

FOLDER = Path(__file__).resolve().parents[2] / ".bench"


def show(result: Result, console: Console) -> None:
    """One scenario's table, and what went wrong in it."""
    parameters = ", ".join(f"{name} {value}" for name, value in result.parameters.items())
    table = Table(title=f"{result.scenario}: {result.title}", caption=parameters, title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("worst", justify="right")
    table.add_column("samples", justify="right")
    table.add_column("budget")
    for figure in result.figures:
        worst = "" if figure.worst is None else _number(figure.worst)
        table.add_row(
            figure.name, _number(figure.value), figure.unit, worst, str(figure.samples), figure.budget
        )
    console.print(table)
    if machine := result.details.get("machine"):
        console.print(f"  machine before: {machine['before']}, after: {machine['after']}", highlight=False)
    for fault in result.faults:
        console.print(f"[bold red]{result.scenario}: {escape(fault)}[/]")


def show_facts(facts: dict[str, Any], console: Console) -> None:
    """The machine, in one line each."""
    for name, value in facts.items():
        console.print(f"  {name}: {value}", markup=False, highlight=False)


def write(results: Sequence[Result], facts: dict[str, Any]) -> Path:
    """The JSON file, named after the time."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    document = {**facts, "results": [asdict(result) for result in results]}
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return path


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
