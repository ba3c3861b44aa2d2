"""What is to come first, of things whose ranks change all the time.

A heap that is told of every change and never searched: an outdated entry is left where it is and thrown away
when it comes up. So the first of five thousand is found in the time it takes to find the first of ten.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
#: Outdated entries that are borne before the heap is built anew.
_SLACK = 64


class Ranking(Generic[Item]):
    """Items by rank, the lowest first. Ranks are tuples of one form, and no two items may share one."""

    def __init__(self) -> None:
        self._ranks: dict[Item, tuple[Any, ...]] = {}
        self._heap: list[tuple[tuple[Any, ...], Item]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, item: Item) -> bool:
        return item in self._ranks

    def put(self, item: Item, rank: tuple[Any, ...]) -> None:
        """Take in an item, or change its rank."""
        if self._ranks.get(item) == rank:
            return
        self._ranks[item] = rank
        if len(self._heap) > 2 * len(self._ranks) + _SLACK:
            self._heap = [(rank, item) for item, rank in self._ranks.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (rank, item))

    def drop(self, item: Item) -> None:
        """Take out an item, if it is there."""
        self._ranks.pop(item, None)

    def first(self) -> Item | None:
        """The item of the lowest rank; None if there is none."""
        while self._heap:
            rank, item = self._heap[0]
            if self._ranks.get(item) == rank:
                return item
            heapq.heappop(self._heap)
        return None
