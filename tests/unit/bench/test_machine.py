"""Waiting for a machine to come to rest."""

import asyncio

import pytest
from tests.bench.machine import QUIET, rested
from tests.fakes.clock import run


@pytest.mark.parametrize(
    ("rests_after", "within", "waited", "found"),
    [(0.0, 60.0, 0.0, QUIET), (40.0, 60.0, 40.0, QUIET), (1000.0, 60.0, 60.0, 3.0), (1000.0, 0.0, 0.0, 3.0)],
)
def test_a_benchmark_begins_when_the_load_is_gone_or_time_is_up(
    rests_after: float, within: float, waited: float, found: float
) -> None:
    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        loaded = await rested(within=within, load=lambda: QUIET if clock() >= begun + rests_after else 3.0)
        assert loaded == found
        assert clock() - begun == pytest.approx(waited, abs=0.1)

    run(scenario())
