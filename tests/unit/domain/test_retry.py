"""Delays: bounded, growing, spread, and the same whenever they are computed again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.records import TaskKey
from perdure.domain.retry import backoff, disruption_delay

KEY = TaskKey("step", 3)
keys = st.builds(TaskKey, st.text("abc-", max_size=8), st.integers(-1, 9999))


@pytest.mark.parametrize(
    ("number", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (1000, 60), (10**9, 60)]
)
def test_delays_double_up_to_a_minute(number: int, seconds: int) -> None:
    for uid in map(str, range(200)):
        delay = backoff(uid, KEY, number).total_seconds()
        assert 0.9 * seconds <= delay <= 1.1 * seconds


def test_jitter_spreads_evenly() -> None:
    delays = [backoff(str(uid), KEY, 7).total_seconds() for uid in range(2000)]
    assert len(set(delays)) > 1990
    assert min(delays) < 54.1
    assert max(delays) > 65.9
    assert 59.5 < sum(delays) / len(delays) < 60.5


@given(st.uuids().map(str), keys, st.integers(1, 2000))
def test_the_same_retry_always_has_the_same_delay(uid: str, key: TaskKey, number: int) -> None:
    assert backoff(uid, key, number) == backoff(uid, TaskKey(*key), number)


def test_known_delays_stay_as_they_are() -> None:
    """A decision that is replayed by a newer version must come to the same time."""
    assert backoff("uid", TaskKey("a"), 1) == timedelta(microseconds=989331)
    assert backoff("uid", TaskKey("a", 7), 3) == timedelta(microseconds=4317890)


@given(st.uuids().map(str), keys, st.integers(0, 12))
def test_the_first_replacement_comes_at_once_and_later_ones_wait(
    uid: str, key: TaskKey, disruptions: int
) -> None:
    delay = disruption_delay(uid, key, disruptions)
    if disruptions <= 1:
        assert delay == timedelta(0)
    else:
        assert delay == backoff(uid, key, disruptions - 1)
