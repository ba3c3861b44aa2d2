"""The rate of requests of each caller."""

from __future__ import annotations

import asyncio

import pytest

from perdure.gateway.authn import Owner
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import HttpProblem, Problem
from perdure.gateway.http.request_rates import RequestRates

A, B = Owner("a", "1"), Owner("b", "1")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return found


async def test_a_burst_passes_at_once_and_the_next_request_waits(slept: list[float]) -> None:
    rates = RequestRates(Limits(requests_rate=10, requests_burst=5), clock=Clock())
    for _ in range(5):
        await rates.pace(A)
    assert slept == []
    await rates.pace(A)
    assert slept == [pytest.approx(0.1)]


async def test_a_flood_is_refused_and_served_again_afterwards(slept: list[float]) -> None:
    clock = Clock()
    rates = RequestRates(Limits(requests_rate=10, requests_burst=5), clock=clock)
    for _ in range(15):
        await rates.pace(A)
    for _ in range(100):
        with pytest.raises(Problem) as caught:
            await rates.pace(A)
    assert caught.value.kind is HttpProblem.TOO_MANY_REQUESTS
    assert int(caught.value.headers["Retry-After"]) == 2
    # Refused requests do not count.
    clock.now += 1.0
    await rates.pace(A)


async def test_callers_do_not_share_a_rate(slept: list[float]) -> None:
    rates = RequestRates(Limits(requests_rate=1, requests_burst=1), clock=Clock())
    await rates.pace(A)
    await rates.pace(B)
    assert slept == []


async def test_an_agent_that_saves_one_checkpoint_after_another_is_never_delayed(slept: list[float]) -> None:
    clock = Clock()
    rates = RequestRates(Limits(), clock=clock)
    for _ in range(20_000):
        # The fastest that one agent was measured at; see the benchmark B9.
        clock.now += 1 / 1150
        await rates.pace(A)
    assert slept == []
