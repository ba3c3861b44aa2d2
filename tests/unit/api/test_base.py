"""Types of fields that every resource shares."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from perdure.api.base import Time, parse_time


@pytest.mark.parametrize("text", ["2026-11-21T08:00:00Z", "2026-11-21T08:00:00.123456789+01:00"])
def test_a_time_with_a_zone_is_taken(text: str) -> None:
    assert TypeAdapter(Time).validate_python(text) == text
    assert parse_time(text).tzinfo is not None


@pytest.mark.parametrize("text", ["2026-11-21T08:00:00", "2026-11-31T08:00:00Z", "tomorrow", "2026-11-21"])
def test_a_time_without_a_zone_or_of_no_calendar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"2026-11-21T08:00:00Z|pattern"):
        TypeAdapter(Time).validate_python(text)
