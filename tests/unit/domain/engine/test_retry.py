"""Delays: bounded, growing, spread, and the same whenever they are computed again."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.engine.retry import Backoff, backoff, disruption_delay
from perdure.domain.records import TaskKey

KEY = TaskKey("step", 3)
keys = st.builds(TaskKey, st.text("abc-", max_size=8), st.integers(-1, 9999))


@pytest.mark.parametrize(
    ("number", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (1000, 60), (10**9, 60)]
)
def test_delays_double_up_to_a_minute(number: int, seconds: int) -> None:
    for uid in map(str, range(200)):
        delay = backoff(uid, KEY, number).total_seconds()
        assert 0.9 * seconds <= delay <= 1.1 * seconds


@pytest.mark.parametrize(
    ("policy", "number", "seconds"),
    [
        (Backoff(jitter=0), 1, 1),
        (Backoff(jitter=0), 6, 32),
        (Backoff(jitter=0), 7, 60),
        (Backoff(initial=10, factor=1, jitter=0), 50, 10),
        (Backoff(initial=0.5, factor=3, longest=10, jitter=0), 3, 4.5),
        (Backoff(initial=0.5, factor=3, longest=10, jitter=0), 4, 10),
        (Backoff(initial=300, longest=60, jitter=0), 1, 60),
        (Backoff(initial=0, jitter=0), 3, 0),
        # So high that no floating-point number holds it.
        (Backoff(factor=100, jitter=0), 1000, 60),
        (Backoff(initial=0, factor=100), 1000, 0),
    ],
)
def test_a_backoff_grows_by_its_factor_up_to_its_maximum(
    policy: Backoff, number: int, seconds: float
) -> None:
    """22: initial, times factor each time, up to max."""
    assert backoff("uid", KEY, number, policy) == timedelta(seconds=seconds)


policies = st.builds(
    Backoff,
    initial=st.floats(0, 3600),
    factor=st.floats(1, 100),
    longest=st.floats(0, 86400),
    jitter=st.floats(0, 1),
)


@given(st.uuids().map(str), keys, st.integers(1, 1000), policies)
def test_jitter_stays_within_its_part_of_the_delay(
    uid: str, key: TaskKey, number: int, policy: Backoff
) -> None:
    """22: to both sides, of the delay that was bounded before."""
    plain = backoff(uid, key, number, replace(policy, jitter=0)).total_seconds()
    assert plain <= policy.longest + 1e-5
    delay = backoff(uid, key, number, policy).total_seconds()
    assert abs(delay - plain) <= policy.jitter * plain + 1e-5
    assert delay <= policy.longest + 1e-5, "36: never beyond the maximum"
    assert delay >= 0


def test_jitter_spreads_delays_evenly() -> None:
    delays = [backoff(str(uid), KEY, 7).total_seconds() for uid in range(2000)]
    assert len(set(delays)) > 1990
    assert min(delays) < 54.1
    assert 59.9 < max(delays) <= 60, "36: jitter never exceeds the maximum"
    assert 56.8 < sum(delays) / len(delays) < 57.2
    delays = [backoff(str(uid), KEY, 4).total_seconds() for uid in range(2000)]
    assert min(delays) < 7.22 and max(delays) > 8.78
    assert 7.95 < sum(delays) / len(delays) < 8.05


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
        assert timedelta(seconds=1) <= delay <= timedelta(seconds=60), "38: 1 s to 60 s"
    if disruptions > 2:
        assert delay == backoff(uid, key, disruptions - 1)


def test_the_delay_after_a_second_disruption_is_spread_above_one_second() -> None:
    delays = [disruption_delay(str(uid), KEY, 2).total_seconds() for uid in range(2000)]
    assert min(delays) >= 1
    assert max(delays) <= 1.1
    assert len(set(delays)) > 1900, "38: many that were interrupted together do not return together"
