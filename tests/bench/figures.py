"""The result of a scenario: figures for the table, details for the JSON, faults for the exit code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.budgets import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A line of the table."""

    name: str
    value: float
    unit: str
    #: The worst of several runs.
    worst: float | None = None
    #: How many measurements it is made of.
    samples: int = 1
    budget: Budget | None = None

    @property
    def verdict(self) -> str:
        """Which bound of the budget it keeps; empty without a budget."""
        return "" if self.budget is None else self.budget.verdict(self.value)


@dataclass(slots=True, kw_only=True)
class Result:
    """The result of one scenario."""

    scenario: str
    title: str
    #: The sizes of the scenario.
    parameters: dict[str, Any]
    #: Whether it was as large as its definition wants.
    full: bool = True
    figures: list[Figure] = field(default_factory=list)
    #: Notes for readers of the figures.
    notes: list[str] = field(default_factory=list)
    #: Everything else worth keeping; plain JSON.
    details: dict[str, Any] = field(default_factory=dict)
    #: Faults, one sentence each. A fault makes the exit code 1.
    faults: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        worst: float | None = None,
        samples: int = 1,
        budget: Budget | None = None,
    ) -> None:
        """Add a figure."""
        self.figures.append(
            Figure(name=name, value=value, unit=unit, worst=worst, samples=samples, budget=budget)
        )

    def add_runs(
        self,
        name: str,
        values: Sequence[float],
        unit: str,
        *,
        budget: Budget | None = None,
        most: bool = False,
    ) -> None:
        """Add a figure measured once per run: the median, and the worst. `most`: the more the better."""
        if values:
            worst = min(values) if most else max(values)
            self.add(name, median(values), unit, worst=worst, samples=len(values), budget=budget)

    def add_samples(
        self,
        name: str,
        seconds: Sequence[float],
        *,
        p50: Budget | None = None,
        p99: Budget | None = None,
    ) -> None:
        """Add a latency: its p50 and p99 in milliseconds, with their budgets, and the worst sample."""
        if seconds:
            worst = max(seconds) * 1000
            for label, share, budget in (("p50", 0.5, p50), ("p99", 0.99, p99)):
                self.add(
                    f"{name} {label}",
                    quantile(seconds, share) * 1000,
                    "ms",
                    worst=worst,
                    samples=len(seconds),
                    budget=budget,
                )


def quantile(samples: Sequence[float], share: float) -> float:
    """The sample at or below which that share of all lies (nearest rank). Raises ValueError if none."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
