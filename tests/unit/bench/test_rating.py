"""When a rising rate is too high."""

from __future__ import annotations

from tests.bench.rating import ALLOWED, IN_A_ROW, Period, sustained


def periods(*waiting: int, rate: float = 10.0) -> list[Period]:
    return [Period(rate + number, rate, each) for number, each in enumerate(waiting)]


def test_no_rate_is_too_high_while_the_queue_is_short() -> None:
    assert sustained(periods(1, 2, 3, 4, 5, 6, 7)) is None


def test_the_rate_before_the_queue_grew_is_the_answer() -> None:
    found = periods(1, 2, 20, 40, 60, 80)
    assert sustained(found[:-1]) == found[0].rate
    assert sustained(found) == found[1].rate


def test_a_queue_that_shrinks_again_is_a_hiccup() -> None:
    assert sustained(periods(10, 100, 80, 60, 70, 90)) is None


def test_a_sustained_rate_needs_as_many_periods_as_requested() -> None:
    rising = periods(*(int(ALLOWED * 100) * (number + 1) for number in range(IN_A_ROW + 1)))
    assert sustained(rising[:-1]) is None
    assert sustained(rising) == rising[0].rate
