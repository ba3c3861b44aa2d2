"""The figures on the page: from JSON, refused where they would mislead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.bench import record, report, summary
from tests.bench.budgets import Budget
from tests.bench.figures import Result
from tests.bench.report import main, section, taken_in, unfit
from tests.bench.table import number

PAGE = (
    "before\n<!-- generated: budgets -->\n<!-- end: budgets -->\nbetween\n"
    "<!-- generated: measured -->\n<!-- end: measured -->\nafter\n"
)
FACTS = {
    "load_before": 0.1,
    "machine": {
        "at": "2026-01-02T03:04:05+00:00",
        "cpu": "a processor",
        "cores": 2,
        "memory_gib": 24.0,
        "fdatasync_ms": {"p50": 0.1, "p99": 0.2},
    },
    "versions": {"perdure": "0.1.0 abc", "python": "3.11", "postgres": "18"},
}


def result(scenario: str = "B1", *, value: float = 12.5, full: bool = True) -> Result:
    made = Result(scenario=scenario, title="latency", parameters={"runs": 3}, full=full)
    made.details["machine"] = {
        "before": {"yardstick_ms": 8.7, "slowness": 1.1},
        "after": {"yardstick_ms": 9.1, "slowness": 1.2},
    }
    made.add("gap | p50", value, "ms", worst=20, samples=7, budget=Budget(must=15, stretch=9))
    return made


def documented(*results: Result, **changed: Any) -> dict[str, Any]:
    """As read back from the file."""
    found: dict[str, Any] = json.loads(json.dumps(record.document(results, {**FACTS, **changed})))
    return found


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "performance.md"
    file.write_text(PAGE)
    return file


def write(folder: Path, name: str, found: dict[str, Any]) -> str:
    file = folder / name
    file.write_text(json.dumps(found))
    return str(file)


def test_the_committed_page_says_what_its_json_says() -> None:
    assert main(["--check"]) == 0


def test_written_results_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    record.write(file, [result()], FACTS)
    (found,) = record.read(file)["results"]
    assert found["figures"][0]["verdict"] == "met"
    assert found["figures"][0]["budget"]["must"] == 15


def test_a_table_has_each_figure_with_its_budget_and_verdict() -> None:
    text = section(taken_in({}, [documented(result())]), drawn=None)
    assert "| gap \\| p50 | 12.50 | ms | 20 | 7 | ≤ 15 | ≤ 9 | met |" in text
    assert "### B1: latency" in text
    assert "runs 3" in text
    assert "fdatasync of 8 KiB 0.1 ms" in text
    assert "yardstick 8.7 ms before and 9.1 ms after, slowness 1.1 and 1.2." in text


def test_the_page_begins_with_the_budgets_that_were_measured(page: Path, tmp_path: Path) -> None:
    created = result("B1")
    created.add("pod ended → next pod created p50", 8.0, "ms", budget=Budget(must=15, stretch=9))
    assert main([write(tmp_path, "results.json", documented(created)), "--page", str(page)]) == 0
    text = page.read_text()
    line = "| step ended → next step's pod created, idle, p50 | ≤ 15 | ≤ 9 | 8 ms | stretch | B1 |"
    assert line in text
    assert text.index(line) < text.index("between") < text.index("### B1: latency")
    assert "kill -9" not in text


@pytest.mark.parametrize("line", summary.LINES, ids=lambda line: line.what)
def test_every_budget_is_answered_by_a_figure_of_the_committed_page(line: summary.Line) -> None:
    kept = record.read(report.PAGE.with_suffix(".json"))
    figure = report.figures_of(kept)[line.scenario, line.figure]
    assert figure.budget is not None


def test_benchmarks_stand_in_the_order_of_their_numbers() -> None:
    taken = taken_in({}, [documented(result("growth"), result("B10")), documented(result("B2"))])
    text = section(taken, drawn=None)
    assert text.index("### B2:") < text.index("### B10:") < text.index("### growth:")


def test_a_page_without_results_says_so() -> None:
    assert section({}, drawn=None).startswith("Not measured yet")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (documented(result(full=False)), "B1 was smaller than defined"),
        (documented(result(), load_before=report.QUIET + 0.1), "the machine was busy"),
        (
            documented(Result(scenario="B2", title="", parameters={}, faults=["lost"])),
            "B2 did not come out right",
        ),
    ],
)
def test_misleading_results_are_refused(
    found: dict[str, Any], why: str, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert any(reason.startswith(why) for reason in unfit(found))
    assert main([write(tmp_path, "results.json", found), "--page", str(page)]) == 2
    assert why in capsys.readouterr().err
    assert page.read_text() == PAGE
    assert not page.with_suffix(".json").exists()


def test_results_are_kept_and_later_ones_win(page: Path, tmp_path: Path) -> None:
    first = write(tmp_path, "first.json", documented(result("B1", value=10), result("B2", value=11)))
    later = write(tmp_path, "later.json", documented(result("B1", value=99)))
    assert main([first, "--page", str(page)]) == 0
    assert main([later, "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| 99 |" in text
    assert "| 11 |" in text
    assert "| 10 |" not in text
    assert main(["--check", "--page", str(page)]) == 0


def test_a_page_that_was_edited_by_hand_is_reported(page: Path, tmp_path: Path) -> None:
    results = write(tmp_path, "results.json", documented(result()))
    main([results, "--page", str(page)])
    page.write_text(page.read_text().replace("12.50", "2.50"))
    assert main(["--check", "--page", str(page)]) == 1
    assert "2.50" in page.read_text()
    assert main(["--page", str(page)]) == 0
    assert "12.50" in page.read_text()


def test_growth_is_drawn_next_to_the_page(page: Path, tmp_path: Path) -> None:
    grown = result("growth")
    point = {"steps_per_second": 30.0, "cpu_ms_per_step": 4.0, "memory_mib": 100.0}
    grown.details["growth"] = {"concurrent": [{"runs": 10, **point}], "finished": []}
    main([write(tmp_path, "results.json", documented(grown)), "--page", str(page)])
    assert "](performance-growth.svg)" in page.read_text()
    assert page.with_name("performance-growth.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (2.345, "2.35"), (123.4, "123"), (1e7, "10000000"), (0.0, "0"), (float("nan"), "nan")],
)
def test_numbers_have_significant_digits_only(value: float, text: str) -> None:
    assert number(value) == text
