"""The times of a cron schedule, in its time zone.

Clocks that are set forward or back are met as Debian's cron meets them, because that is what people who write
`30 2 * * *` want:

- A schedule for certain times of the day (its minutes and hours begin with no `*`) has each of them once a
  day. One that the clocks skip comes at the moment they are set forward, together with others so skipped; one
  that they show twice comes the first time only.
- A schedule for intervals (minutes or hours begin with `*`) has every minute that the clock shows and that
  matches: none of those it skips, and both of those it shows twice. So an hourly one stays hourly.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim

from perdure.api.workflowschedule import cron_expression
from perdure.api.workflowschedule import time_zone as zone_of

#: The first window that is searched backwards for the newest time, and the factor by which the window grows
#: each time it has none.
_FIRST_WINDOW: Final = timedelta(hours=1)
_WIDER: Final = 8


def next_times(schedule: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """The times after `after`, ascending, in UTC; none if there is none for fifty years.

    Where it begins makes no difference to which times there are. Raises ValueError for what is no schedule or
    no time zone.
    """
    # With Python's own UTC, cronsim skips its handling of daylight saving time.
    zone = UTC if time_zone == "UTC" else zone_of(time_zone)
    return _ascending(CronSim(cron_expression(schedule), after.astimezone(zone)), after)


def latest_time(schedule: str, time_zone: str, after: datetime, until: datetime) -> datetime | None:
    """The newest time after `after` and not after `until`, in UTC; None if there is none.

    Raises ValueError as `next_times` does. Costs about the same however long the time between the two is.
    """
    window = _FIRST_WINDOW
    while True:
        begin = max(after, until - window)
        newest = None
        for time in next_times(schedule, time_zone, begin):
            if time > until:
                break
            newest = time
        if newest is not None or begin <= after:
            return newest
        window *= _WIDER


def _ascending(times: Iterator[datetime], after: datetime) -> Iterator[datetime]:
    newest = after
    for local in times:
        time = local.astimezone(UTC)
        # Begun between the two times that a clock shows alike, it would give the first of them.
        if time > newest:
            newest = time
            yield time
