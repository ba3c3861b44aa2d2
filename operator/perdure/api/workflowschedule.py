"""WorkflowSchedule: makes a Workflow whenever a cron schedule says so."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

from perdure.api.agent import ObjectLabels
from perdure.api.base import FreeObject, Model, Timeout

#: So that the names of its runs, `<name>-<minutes since 1970>`, are DNS labels.
MAX_SCHEDULE_NAME: Final = 52
MAX_HISTORY: Final = 1000
DEFAULT_TIME_ZONE: Final = "UTC"

_ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
#: A time to test whether a schedule has a next time; years of every kind follow it.
_PROBE: Final = datetime(2024, 1, 1, tzinfo=UTC)


def cron_expression(schedule: str) -> str:
    """The five cron fields of a `schedule`, which may be an alias such as `@daily`.

    Raises ValueError, naming what is wrong, for what is no schedule or has no time at all.
    """
    text = _ALIASES.get(schedule.strip(), schedule).strip()
    if text.startswith("@"):
        raise ValueError(f"{schedule!r} is unknown; known are {', '.join(_ALIASES)}")
    if len(text.split()) != 5:
        raise ValueError(
            f"{schedule!r} has {len(text.split())} fields, not 5: minute, hour, day of the month, month, day"
            " of the week"
        )
    try:
        next(CronSim(text, _PROBE))
    except CronSimError as error:
        raise ValueError(f"{schedule!r} is no cron schedule: {str(error).lower()}") from None
    except StopIteration:
        raise ValueError(f"{schedule!r} names a day that never comes") from None
    return text


def time_zone(name: str) -> zoneinfo.ZoneInfo:
    """The IANA time zone of that name. Raises ValueError, naming the accepted form."""
    try:
        return zoneinfo.ZoneInfo(name)
    # It opens a file: a folder, such as America, is another kind of error.
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; write it like Europe/Berlin or UTC") from None


def _checked_schedule(text: str) -> str:
    cron_expression(text)
    return text


def _checked_zone(name: str) -> str:
    time_zone(name)
    return name


class ScheduledWorkflow(Model):
    """The Workflow that is made."""

    #: Its labels and annotations.
    metadata: ObjectLabels | None = None
    #: Its spec, with all fields of a Workflow's.
    spec: FreeObject


class WorkflowScheduleSpec(Model):
    """When, and what. It may be edited: runs that it has made stay as they are."""

    #: Minute, hour, day of the month, month and day of the week, such as `30 6 * * 1-5`; or @hourly, @daily,
    #: @weekly, @monthly or @yearly.
    schedule: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_checked_schedule)]
    #: The time zone of `schedule`, by its IANA name, such as Europe/Berlin. Default: UTC.
    time_zone: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", max_length=64),
        AfterValidator(_checked_zone),
    ] = DEFAULT_TIME_ZONE
    #: What happens if the run before is still live: Allow starts the new one as well, Forbid leaves it out,
    #: Replace cancels the old one. Default: Allow.
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = "Allow"
    #: How late a run may still start, if its time was missed. Default: any time before the next one.
    starting_deadline: Timeout | None = None
    #: Whether it makes no runs for now. Default: false.
    suspend: bool = False
    #: Succeeded runs that are kept. Default: 3.
    successful_history_limit: Annotated[int, Field(ge=0, le=MAX_HISTORY)] = 3
    #: Failed and cancelled runs that are kept. Default: 1.
    failed_history_limit: Annotated[int, Field(ge=0, le=MAX_HISTORY)] = 1
    #: The Workflow that is made.
    workflow: ScheduledWorkflow
