"""Waiting for a machine to come to rest."""

import pytest
from tests.bench.machine import QUIET, rested
from tests.simulated.clock import run


@pytest.mark.parametrize(
    ("loads", "within", "asked", "found"),
    [
        ([QUIET], 60.0, 1, QUIET),
        ([2.0, 0.9, 0.4], 60.0, 3, 0.4),
        ([3.0] * 100, 60.0, 13, 3.0),
        ([3.0], 0.0, 1, 3.0),
    ],
)
def test_a_benchmark_begins_when_the_load_is_gone_or_time_is_up(
    loads: list[float], within: float, asked: int, found: float
) -> None:
    seen: list[float] = []

    def load() -> float:
        seen.append(loads[len(seen)])
        return seen[-1]

    assert run(rested(within=within, load=load)) == found
    assert len(seen) == asked
