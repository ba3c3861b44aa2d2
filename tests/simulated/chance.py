"""The one source of chance of a simulated run, and what it may do to calls."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """How likely each fault is, from 0 to 1. All zero is a world in which nothing goes wrong."""

    #: A call fails before, or after, it has taken effect.
    call_fails: float = 0.0
    #: A watch event is lost, delivered twice, or delivered late and out of order.
    event_lost: float = 0.0
    event_twice: float = 0.0
    event_late: float = 0.0
    #: A pod is deleted from outside, or evicted.
    pod_disrupted: float = 0.0
    #: An agent fails; an agent reports through the gateway rather than by its exit.
    agent_fails: float = 0.0
    agent_reports: float = 0.5


class Chance:
    """Everything random in a run comes from here."""

    def __init__(self, seed: int, odds: Odds) -> None:
        self.seed = seed
        self.odds = odds
        self._random = random.Random(seed)
        #: Once True, nothing goes wrong any more: a run must then come to its end.
        self.calm = False

    def happens(self, probability: float) -> bool:
        return not self.calm and self._random.random() < probability

    def between(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def choice(self, items: list[Item]) -> Item:
        return self._random.choice(items)

    async def latency(self) -> None:
        """Time passes between any two calls, so that a crash can come between them."""
        await asyncio.sleep(self.between(0.0005, 0.02))
