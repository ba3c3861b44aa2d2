"""The time at which runs in these tests begin."""

from datetime import UTC, datetime, timedelta

START = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Seconds after the start."""
    return START + timedelta(seconds=seconds)
