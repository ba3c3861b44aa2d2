"""Times of cron schedules, above all those at which clocks are set."""

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.schedules.cron import latest_time, next_times

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def at(text: str) -> datetime:
    """A time in UTC, as `2026-03-29 01:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(schedule: str, time_zone: str, after: str, until: str) -> list[str]:
    found = []
    for time in next_times(schedule, time_zone, at(after)):
        if time > at(until):
            break
        found.append(f"{time:%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("@hourly", ["01-01 01:00", "01-01 02:00"]),
        ("@daily", ["01-02 00:00", "01-03 00:00"]),
        ("@weekly", ["01-04 00:00", "01-11 00:00"]),
        ("@monthly", ["02-01 00:00", "03-01 00:00"]),
        ("@yearly", ["01-01 00:00", "01-01 00:00"]),
        ("30 6 * * 1-5", ["01-01 06:30", "01-02 06:30"]),
        ("0 0 29 2 *", ["02-29 00:00", "02-29 00:00"]),
    ],
)
def test_aliases_and_fields(schedule: str, expected: list[str]) -> None:
    found = islice(next_times(schedule, "UTC", at("2026-01-01 00:00")), 2)
    assert [f"{time:%m-%d %H:%M}" for time in found] == expected


def test_a_time_zone_is_that_of_the_wall_clock_and_results_are_utc() -> None:
    (time,) = islice(next_times("30 6 * * *", BERLIN, at("2026-07-01 00:00")), 1)
    assert time == at("2026-07-01 04:30")
    assert time.tzinfo is UTC


def test_the_time_after_which_is_asked_is_not_among_them() -> None:
    assert times("*/15 * * * *", "UTC", "2026-01-01 00:15", "2026-01-01 00:45") == [
        "01-01 00:30",
        "01-01 00:45",
    ]


@pytest.mark.parametrize("schedule", ["", "* * * *", "0 * * * * *", "61 * * * *", "@never", "0 0 30 2 *"])
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"schedule|fields|known|never"):
        next_times(schedule, "UTC", at("2026-01-01 00:00"))


@pytest.mark.parametrize("name", ["Berlin", "Europe", "../etc/passwd", ""])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        next_times("@daily", name, at("2026-01-01 00:00"))


#: Berlin's clocks go from 02:00 to 03:00 at 01:00 UTC, New York's from 02:00 to 03:00 at 07:00 UTC.
@pytest.mark.parametrize(
    ("schedule", "time_zone", "after", "until", "expected"),
    [
        # Skipped times of the day come when the clocks are set, and the next day as ever.
        ("30 2 * * *", BERLIN, "2026-03-28 12:00", "2026-03-30 12:00", ["03-29 01:00", "03-30 00:30"]),
        ("30 2 * * *", NEW_YORK, "2026-03-07 12:00", "2026-03-09 12:00", ["03-08 07:00", "03-09 06:30"]),
        # Several of them come as one, and so does one that would have come then anyway.
        ("0,30 2,3 * * *", BERLIN, "2026-03-29 00:00", "2026-03-29 12:00", ["03-29 01:00", "03-29 01:30"]),
        # Others of that day stay where they are.
        ("30 1,4 * * *", BERLIN, "2026-03-29 00:00", "2026-03-29 12:00", ["03-29 00:30", "03-29 02:30"]),
        # Intervals follow the clock: what it skips does not come.
        ("*/30 * * * *", BERLIN, "2026-03-29 00:00", "2026-03-29 01:30",
         ["03-29 00:30", "03-29 01:00", "03-29 01:30"]),
        ("*/30 2 * * *", BERLIN, "2026-03-28 12:00", "2026-03-29 12:00", []),
        ("@hourly", NEW_YORK, "2026-03-08 05:30", "2026-03-08 08:00",
         ["03-08 06:00", "03-08 07:00", "03-08 08:00"]),
    ],
)  # fmt: skip
def test_when_clocks_are_set_forward(
    schedule: str, time_zone: str, after: str, until: str, expected: list[str]
) -> None:
    assert times(schedule, time_zone, after, until) == expected


#: Berlin's go from 03:00 to 02:00 at 01:00 UTC, New York's from 02:00 to 01:00 at 06:00 UTC.
@pytest.mark.parametrize(
    ("schedule", "time_zone", "after", "until", "expected"),
    [
        # Times of the day that the clocks show twice come the first time only.
        ("30 2 * * *", BERLIN, "2026-10-24 12:00", "2026-10-26 12:00", ["10-25 00:30", "10-26 01:30"]),
        ("30 1 * * *", NEW_YORK, "2026-10-31 12:00", "2026-11-02 12:00", ["11-01 05:30", "11-02 06:30"]),
        ("15,45 2,3 * * *", BERLIN, "2026-10-25 00:00", "2026-10-25 12:00",
         ["10-25 00:15", "10-25 00:45", "10-25 02:15", "10-25 02:45"]),
        # Also if it is asked between the two.
        ("30 2 * * *", BERLIN, "2026-10-25 01:10", "2026-10-26 12:00", ["10-26 01:30"]),
        # Intervals come both times: an hourly one stays hourly.
        ("@hourly", BERLIN, "2026-10-24 23:30", "2026-10-25 02:00",
         ["10-25 00:00", "10-25 01:00", "10-25 02:00"]),
        ("*/30 1 * * *", NEW_YORK, "2026-11-01 04:30", "2026-11-01 12:00",
         ["11-01 05:00", "11-01 05:30", "11-01 06:00", "11-01 06:30"]),
    ],
)  # fmt: skip
def test_when_clocks_are_set_back(
    schedule: str, time_zone: str, after: str, until: str, expected: list[str]
) -> None:
    assert times(schedule, time_zone, after, until) == expected


schedules = st.sampled_from(
    [
        "* * * * *",
        "*/20 * * * *",
        "0 * * * *",
        "30 2 * * *",
        "0,30 1-3 * * *",
        "*/30 2 * * *",
        "15 */2 * * *",
        "0 3 * * 0",
        "@daily",
    ]
)
#: Around the nights in which clocks are set, and one in which they are not.
nights = st.sampled_from(
    [at(f"2026-{day} 00:00") for day in ("03-08", "03-29", "06-10", "10-25", "11-01")]
).flatmap(lambda day: st.integers(-1440, 1440).map(lambda minutes: day + timedelta(minutes=minutes)))
zones = st.sampled_from([BERLIN, NEW_YORK, "UTC", "Australia/Lord_Howe"])


@given(schedules, zones, nights, st.integers(0, 86_400))
def test_where_it_begins_makes_no_difference(schedule: str, zone: str, begin: datetime, seconds: int) -> None:
    later = begin + timedelta(seconds=seconds)
    until = later + timedelta(days=1)

    def up_to(after: datetime) -> list[datetime]:
        found = []
        for time in next_times(schedule, zone, after):
            if time > until:
                return found
            found.append(time)
        raise AssertionError("it ends")

    assert [time for time in up_to(begin) if time > later] == up_to(later)
    assert all(earlier < time for earlier, time in zip(up_to(begin), up_to(begin)[1:], strict=False))


@given(schedules, zones, nights, st.integers(0, 3 * 86_400))
def test_the_latest_is_the_last_of_all(schedule: str, zone: str, after: datetime, seconds: int) -> None:
    until = after + timedelta(seconds=seconds)
    newest = None
    for time in next_times(schedule, zone, after):
        if time > until:
            break
        newest = time
    assert latest_time(schedule, zone, after, until) == newest


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("* * * * *", "2026-06-01 12:00"), ("@daily", "2026-06-01 00:00"), ("@yearly", "2026-01-01 00:00")],
)
def test_the_latest_of_many_years_is_found(schedule: str, expected: str) -> None:
    assert latest_time(schedule, "UTC", at("2006-01-01 00:00"), at("2026-06-01 12:00")) == at(expected)
