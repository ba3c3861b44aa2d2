"""Verdicts: which bound a value keeps."""

from __future__ import annotations

import pytest
from tests.bench.budgets import NEVER, Budget


@pytest.mark.parametrize(
    ("value", "verdict"), [(9, "stretch"), (9.01, "met"), (15, "met"), (15.01, "missed"), (0, "stretch")]
)
def test_a_lower_value_is_better_under_an_upper_bound(value: float, verdict: str) -> None:
    assert Budget(must=15, stretch=9).verdict(value) == verdict


@pytest.mark.parametrize(
    ("value", "verdict"), [(45, "stretch"), (44.9, "met"), (30, "met"), (29.9, "missed")]
)
def test_a_higher_value_is_better_over_a_lower_bound(value: float, verdict: str) -> None:
    assert Budget(must=30, stretch=45, most=True).verdict(value) == verdict


def test_met_is_the_best_verdict_without_a_stretch() -> None:
    assert Budget(must=250).verdict(0) == "met"
    assert NEVER.verdict(1) == "missed"


def test_a_value_that_is_not_a_number_misses_its_budget() -> None:
    assert Budget(must=15, stretch=9).verdict(float("nan")) == "missed"


def test_a_bound_is_printed_with_its_sign() -> None:
    budget = Budget(must=30, most=True)
    assert (budget.text(budget.must), budget.text(budget.stretch)) == ("≥ 30", "")
    assert Budget(must=2.5).text(2.5) == "≤ 2.5"
