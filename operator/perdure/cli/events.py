"""`perdure events`: a run's history from the ledger, and its next events from the stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from perdure.bus.cloudevents import encode
from perdure.bus.connection import Bus
from perdure.bus.follow import PAGE, Runs, follow, history
from perdure.cli.arguments import Output
from perdure.cli.output import EventLines, print_line, print_notice, style
from perdure.domain.records import Event, RunRecord


async def print_events(
    ledger: Runs, run: RunRecord, *, after: int, output: Output, headers: bool, bus: Bus | None, live: bool
) -> None:
    """Print the run's events with numbers above `after`; with `live` until its last one.

    Raises LedgerUnavailable if the ledger is away from the start.
    """
    show = _printer(output)
    if output is Output.TEXT:
        lines = EventLines()
        lines.fit(await ledger.events(run.uid, after=after, limit=PAGE))
        show = _text_printer(lines)
        if headers:
            print_line(lines.header())
    events = (
        follow(ledger, run, after=after, bus=bus, notice=print_notice)
        if live
        else history(ledger, run.uid, after=after)
    )
    # The generator holds a subscription, so it is closed here and not left to the garbage collector.
    async with contextlib.aclosing(events):
        async for event in events:
            show(event)


def _printer(output: Output) -> Callable[[Event], None]:
    return lambda event: print_line(encode(event).decode())


def _text_printer(lines: EventLines) -> Callable[[Event], None]:
    return lambda event: print_line(lines.line(event), styled=style(event))
