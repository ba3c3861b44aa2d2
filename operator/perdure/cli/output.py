"""The output of the command line: events as aligned lines, tables for people and for pipes.

`rich` is loaded only for a terminal: it takes longer to load than most commands take to run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from perdure.domain.events import EventType
from perdure.domain.records import Event

_HEADERS = ("SEQ", "TIME", "TYPE", "TASK", "ATTEMPT", "FACTS")
_STYLES: Mapping[str, str] = {
    EventType.WORKFLOW_SUCCEEDED: "green",
    EventType.WORKFLOW_FAILED: "bold red",
    EventType.WORKFLOW_CANCELLED: "yellow",
    EventType.TASK_CHECKPOINTED: "cyan",
    EventType.TASK_PROGRESS: "dim",
    EventType.TASK_RETRYING: "yellow",
    EventType.TASK_DISRUPTED: "yellow",
    EventType.TASK_SUCCEEDED: "green",
    EventType.TASK_FAILED: "bold red",
    EventType.TASK_CANCELLED: "yellow",
    EventType.TASK_SKIPPED: "dim",
}
#: Names whose values come first, because they say what the event is about.
_FIRST_FACTS = ("reason", "message")


class EventLines:
    """Formats events one by one. Columns only widen, so that a live listing stays aligned."""

    def __init__(self) -> None:
        self._widths = [4, 24, 17, 4, 7]

    def fit(self, events: Sequence[Event]) -> None:
        """Make the columns wide enough for these events, before the first of them is printed."""
        for event in events:
            self._widen(_cells(event))

    def header(self) -> str:
        return self._line(_HEADERS)

    def line(self, event: Event) -> str:
        """`SEQ  TIME  TYPE  TASK  ATTEMPT  facts…`, without a line end."""
        cells = _cells(event)
        self._widen(cells)
        return self._line(cells)

    def _widen(self, cells: Sequence[str]) -> None:
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=False)]

    def _line(self, cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=False)]
        return "  ".join([*padded, cells[-1]]).rstrip()


def style(event: Event) -> str:
    """The colour of an event's line on a terminal; '' for plain."""
    return _STYLES.get(event.type, "")


def facts(data: Mapping[str, Any]) -> str:
    """An event's data on one line: `name=value …`, text quoted where it would be ambiguous."""
    names = [name for name in _FIRST_FACTS if name in data]
    names += [name for name in data if name not in _FIRST_FACTS]
    return " ".join(f"{name}={_value(data[name])}" for name in names if data[name] is not None)


def _value(value: object) -> str:
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(" =\"'"):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return orjson.dumps(value, default=str).decode()


def _cells(event: Event) -> tuple[str, ...]:
    attempt = "-" if event.attempt is None else str(event.attempt)
    cells = (str(event.sequence), instant(event.time), event.type, event.task or "-", attempt)
    return (*cells, facts(event.data))


def instant(time: datetime) -> str:
    """RFC 3339 in UTC with milliseconds; always 24 characters."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def print_line(text: str, *, styled: str = "") -> None:
    """One line to standard output at once, coloured only on a terminal and never wrapped."""
    if styled and sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(text, style=styled), soft_wrap=True, highlight=False)
    else:
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people on a terminal, aligned columns without ornament elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headers)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in [[header.upper() for header in headers], *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def print_error(message: str, *, remedy: str = "") -> None:
    """An error with its remedy, to standard error."""
    sys.stderr.write(f"error: {message}\n")
    if remedy:
        sys.stderr.write(f"{remedy}\n")
    sys.stderr.flush()


def print_warning(message: str, *, remedy: str) -> None:
    """A warning with its remedy, to standard error."""
    sys.stderr.write(f"warning: {message}\n{remedy}\n")
    sys.stderr.flush()


def print_notice(message: str) -> None:
    """A note that is not part of the output, to standard error."""
    sys.stderr.write(f"# {message}\n")
    sys.stderr.flush()
