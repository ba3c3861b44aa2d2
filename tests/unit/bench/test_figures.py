"""Statistics of the benchmarks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.budgets import Budget
from tests.bench.figures import Result, median, quantile

SAMPLES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


def test_quantiles_are_samples_by_nearest_rank() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert [quantile(samples, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)


@given(SAMPLES, st.floats(0, 1))
def test_at_least_the_share_of_samples_lies_at_or_below_a_quantile(
    samples: list[float], share: float
) -> None:
    found = quantile(samples, share)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples) - 1e-9


@given(SAMPLES)
def test_as_many_samples_lie_below_the_median_as_above(samples: list[float]) -> None:
    found = median(samples)
    assert sum(sample < found for sample in samples) <= len(samples) / 2
    assert sum(sample > found for sample in samples) <= len(samples) / 2


def result() -> Result:
    return Result(scenario="B1", title="", parameters={})


def test_latencies_are_in_milliseconds_with_a_budget_each() -> None:
    found = result()
    found.add_samples("gap", [0.001, 0.002, 0.03], p50=Budget(must=15), p99=Budget(must=20))
    assert [(figure.name, figure.value, figure.verdict) for figure in found.figures] == [
        ("gap p50", 2.0, "met"),
        ("gap p99", 30.0, "missed"),
    ]
    assert {figure.worst for figure in found.figures} == {30.0}


def test_the_worst_of_runs_depends_on_what_is_better() -> None:
    found = result()
    found.add_runs("rate", [40.0, 30.0, 50.0], "/s", most=True)
    found.add_runs("time", [40.0, 30.0, 50.0], "s")
    assert [(figure.value, figure.worst, figure.samples) for figure in found.figures] == [
        (40.0, 30.0, 3),
        (40.0, 50.0, 3),
    ]


def test_an_empty_measurement_adds_no_figure() -> None:
    found = result()
    found.add_samples("gap", [])
    found.add_runs("rate", [], "/s")
    assert found.figures == []
