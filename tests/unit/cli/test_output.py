"""The lines of `perdure events`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from perdure.cli.output import EventLines, facts, instant, print_table
from perdure.domain.records import Event

EVENT = Event(
    workflow_uid="6a1f0a3e-8b1e-4a51-9a39-1d6d3c1f2b10",
    namespace="team-a",
    workflow="audit",
    kind="Workflow",
    sequence=7,
    type="task.checkpointed",
    time=datetime(2026, 3, 1, 12, 0, 0, 123999, tzinfo=UTC),
    data={"sequence": 3, "label": "a.py"},
    task="audit-analyse-k3x9a",
    attempt=2,
)


def test_a_line_has_its_columns_under_their_names() -> None:
    lines = EventLines()
    lines.fit([EVENT])
    header, line = lines.header(), lines.line(EVENT)
    assert line == (
        "7     2026-03-01T12:00:00.123Z  task.checkpointed  audit-analyse-k3x9a  2        "
        "sequence=3 label=a.py"
    )
    for name, text in (("TIME", "2026"), ("TYPE", "task."), ("TASK", "audit-"), ("FACTS", "sequence")):
        assert header.index(name) == line.index(text)


def test_columns_widen_and_never_narrow() -> None:
    lines = EventLines()
    long = lines.line(replace(EVENT, task="t" * 57))
    short = lines.line(replace(EVENT, task="t", type="task.started"))
    assert long.index("sequence=3") == short.index("sequence=3")


def test_what_an_event_is_not_about_shows_as_a_dash() -> None:
    line = EventLines().line(replace(EVENT, task=None, attempt=None, data={}, type="workflow.created"))
    assert line.split() == ["7", "2026-03-01T12:00:00.123Z", "workflow.created", "-", "-"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, ""),
        ({"size": 10, "reason": "OOMKilled", "message": "killed by\nthe kernel"}, None),
        ({"percent": 50.0, "message": "half way"}, 'message="half way" percent=50'),
        ({"percent": 33.3, "label": None}, "percent=33.3"),
        ({"a": "x=y", "b": "", "c": True, "d": [1, {"e": "ü"}]}, 'a="x=y" b="" c=true d=[1,{"e":"ü"}]'),
    ],
)
def test_facts_fit_one_line(data: dict[str, object], text: str | None) -> None:
    shown = facts(data)
    assert "\n" not in shown
    assert shown == (
        text if text is not None else 'reason=OOMKilled message="killed by\\nthe kernel" size=10'
    )


def test_facts_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in facts({"message": "\x1b[2Jgone", "label": "\x1b]0;x\x07"})


def test_times_are_utc_with_a_fixed_width() -> None:
    there = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert instant(there) == "2026-02-28T23:30:00.000Z"


def test_a_table_in_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("setting", "value"), [("A_LONG_NAME", "1"), ("B", "")])
    assert capsys.readouterr().out == "SETTING      VALUE\nA_LONG_NAME  1\nB\n"
