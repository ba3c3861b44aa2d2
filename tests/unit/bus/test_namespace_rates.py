"""The rate of the events of each namespace."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from perdure.bus.namespace_rates import NamespaceRates
from perdure.domain.records import Event, OutboxRow


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rows(namespace: str, count: int) -> list[OutboxRow]:
    return [
        OutboxRow(
            id=number,
            event=Event(
                workflow_uid=namespace,
                namespace=namespace,
                workflow="audit",
                kind="Workflow",
                sequence=number,
                type="task.progress",
                time=datetime(2026, 3, 1, tzinfo=UTC),
                data={},
            ),
        )
        for number in range(1, count + 1)
    ]


def published(rates: NamespaceRates, found: list[OutboxRow]) -> list[int]:
    """Numbers of the events that may be published, which are counted."""
    allowed = rates.allowed(found)
    rates.spend(row.event.namespace for row in allowed)
    return [row.event.sequence for row in allowed]


def test_a_burst_passes_and_the_next_event_waits() -> None:
    rates = NamespaceRates(clock=Clock(), rate=10, burst=5)
    assert published(rates, rows("a", 5)) == [1, 2, 3, 4, 5]
    assert rates.held() == [] and rates.due() == math.inf
    assert published(rates, rows("a", 1)) == []
    assert rates.held() == ["a"]


def test_the_first_events_pass_and_keep_their_order() -> None:
    rates = NamespaceRates(clock=Clock(), rate=10, burst=5)
    assert published(rates, rows("a", 9)) == [1, 2, 3, 4, 5]


def test_another_namespace_is_not_held() -> None:
    rates = NamespaceRates(clock=Clock(), rate=10, burst=5)
    published(rates, rows("a", 6))
    assert published(rates, rows("b", 5)) == [1, 2, 3, 4, 5]
    assert rates.held() == ["a"]


def test_a_held_namespace_goes_on_when_it_is_due() -> None:
    clock = Clock()
    rates = NamespaceRates(clock=clock, rate=10, burst=100)
    published(rates, rows("a", 101))
    assert rates.due() == pytest.approx(3.2)
    clock.now += 3.1
    assert rates.held() == ["a"]
    clock.now += 0.11
    assert rates.held() == []
    assert published(rates, rows("a", 100)) == list(range(1, 33))


def test_events_that_were_not_published_do_not_count() -> None:
    rates = NamespaceRates(clock=Clock(), rate=10, burst=5)
    assert rates.allowed(rows("a", 5)) == rates.allowed(rows("a", 5))


def test_a_namespace_that_is_forgotten_has_a_full_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.bus.namespace_rates._REMEMBERED", 1)
    clock = Clock()
    rates = NamespaceRates(clock=clock, rate=10, burst=5)
    published(rates, rows("a", 5))
    clock.now += 1.0
    published(rates, rows("b", 5))
    published(rates, rows("c", 1))
    assert published(rates, rows("a", 5)) == [1, 2, 3, 4, 5]
    assert published(rates, rows("b", 5)) == []
