"""The measured parts of docs/performance.md, written from JSON so that no figure there is typed by hand.

    python -m tests.bench.report .bench/20260101T000000Z.json …   add these results, and write the page
    python -m tests.bench.report                                  write the page from the results so far
    python -m tests.bench.report --check                          exit 1 if the page differs

Two blocks of the page are written: the table of budgets at its beginning, and all figures at its end. The
results are kept next to the page as performance.json, the growth charts as performance-growth.svg. Results
that are smaller than defined, failed, or came from a busy machine are refused: their figures would be quoted
without the words that belong to them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from perdure.api.codegen.generated import replace_block
from tests.bench import record
from tests.bench.budgets import Budget
from tests.bench.figures import Figure
from tests.bench.growing import charts
from tests.bench.machine import QUIET
from tests.bench.summary import budgets_table
from tests.bench.table import row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
BUDGETS = "budgets"
FIGURES = "measured"
NOTHING = (
    "Not measured yet. These figures are written from the results of `make bench` on a quiet machine; "
    "there are none so far."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.report", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="JSON", help="results to add")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is stale")
    parser.add_argument("--page", type=Path, default=PAGE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    page: Path = options.page
    kept = page.with_suffix(".json")
    documents = {str(file): record.read(file) for file in options.files}
    if refused := [f"{name}: {why}" for name, found in documents.items() for why in unfit(found)]:
        print("\n".join(refused), file=sys.stderr)
        return 2
    taken = taken_in(record.read(kept) if kept.exists() else {}, list(documents.values()))
    drawn = growth_of(taken)
    before = page.read_text(encoding="utf-8")
    after = replace_block(before, BUDGETS, budgets_table(figures_of(taken)) if taken else NOTHING)
    after = replace_block(after, FIGURES, section(taken, drawn=f"{page.stem}-growth.svg" if drawn else None))
    if options.check:
        if after != before:
            print(f"{page} is stale; run `python -m tests.bench.report`", file=sys.stderr)
        return int(after != before)
    page.write_text(after, encoding="utf-8")
    if taken:
        kept.write_bytes(orjson.dumps(taken, option=orjson.OPT_INDENT_2) + b"\n")
    if drawn:
        page.with_name(f"{page.stem}-growth.svg").write_text(charts(drawn), encoding="utf-8")
    return 0


def unfit(found: Mapping[str, Any]) -> list[str]:
    """Why these results are not fit to be published, one sentence each."""
    reasons = []
    if found["load_before"] > QUIET:
        reasons.append(f"the machine was busy: a load of {found['load_before']:.2f} before the start")
    for result in found["results"]:
        if result["faults"]:
            reasons.append(f"{result['scenario']} did not come out right")
        elif not result["full"]:
            reasons.append(f"{result['scenario']} was smaller than defined")
    return reasons


def taken_in(before: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Results by scenario, each with the machine and the versions that it came from; later ones win."""
    scenarios: dict[str, Any] = dict(before)
    for found in documents:
        facts = {key: value for key, value in found.items() if key != "results"}
        for result in found["results"]:
            scenarios[result["scenario"]] = {**facts, "result": result}
    return scenarios


def growth_of(taken: Mapping[str, Any]) -> dict[str, Any]:
    """The points of the growth charts; empty if there are none."""
    found: dict[str, Any] = taken.get("growth", {}).get("result", {}).get("details", {}).get("growth", {})
    return found


def section(taken: Mapping[str, Any], *, drawn: str | None) -> str:
    """Markdown of all results. `drawn`: the file of the growth charts."""
    if not taken:
        return NOTHING
    parts = []
    for entry in sorted(taken.values(), key=_place):
        result = entry["result"]
        parts += [f"### {result['scenario']}: {result['title']}", _origin(entry), _table(result["figures"])]
        parts += result["notes"]
        if drawn and result["scenario"] == "growth":
            parts.append(f"![how cost grows]({drawn})")
    return "\n\n".join(parts)


def _place(entry: Mapping[str, Any]) -> tuple[bool, int]:
    """By number, and what has none at the end."""
    number: str = entry["result"]["scenario"].removeprefix("B")
    return (False, int(number)) if number.isdigit() else (True, 0)


def _origin(entry: Mapping[str, Any]) -> str:
    machine, versions = entry["machine"], entry["versions"]
    result = entry["result"]
    sizes = ", ".join(f"{name} {value}" for name, value in result["parameters"].items())
    sync, speed = machine["fdatasync_ms"], result["details"]["machine"]
    before, after = (speed[when] for when in ("before", "after"))
    return (
        f"{sizes}. {machine['at'][:10]}, {versions['perdure']}, Python {versions['python']}, "
        f"Postgres {versions['postgres']}; {machine['cores']} × {machine['cpu']}, "
        f"{machine['memory_gib']} GiB, fdatasync of 8 KiB {sync['p50']} ms (p99 {sync['p99']} ms), "
        f"yardstick {before['yardstick_ms']} ms before and {after['yardstick_ms']} ms after, "
        f"slowness {before['slowness']} and {after['slowness']}."
    )


def _table(figures: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| what | value | unit | worst | samples | must | stretch | verdict |",
        "|---|--:|---|--:|--:|---|---|---|",
    ]
    for found in figures:
        cells = row(figure(found))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").strip() for cell in cells) + " |")
    return "\n".join(lines)


def figures_of(taken: Mapping[str, Any]) -> dict[tuple[str, str], Figure]:
    """All figures, by scenario and name."""
    return {
        (name, found["name"]): figure(found)
        for name, entry in taken.items()
        for found in entry["result"]["figures"]
    }


def figure(found: Mapping[str, Any]) -> Figure:
    """A figure as its JSON has it."""
    known = {key: value for key, value in found.items() if key not in ("verdict", "budget")}
    return Figure(**known, budget=None if found["budget"] is None else Budget(**found["budget"]))


if __name__ == "__main__":
    sys.exit(main())
