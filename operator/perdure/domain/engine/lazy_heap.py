"""A priority queue whose ranks change all the time: when tasks are due, whose turn it is.

A heap that is notified of every change and never searched: an outdated entry stays where it is, and is
discarded when it reaches the top. So the first of ten thousand items is found in the time of the first of
ten.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Hashable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
#: Anything ordered: a time, or a tuple of one form.
Rank = TypeVar("Rank", bound=Any)
#: Outdated entries that are tolerated before the heap is rebuilt.
_SLACK = 64


class LazyHeap(Generic[Item, Rank]):
    """Items by rank, the lowest first. Items of equal rank are ordered by themselves."""

    __slots__ = ("_heap", "ranks")

    def __init__(self) -> None:
        #: To be read only.
        self.ranks: dict[Item, Rank] = {}
        self._heap: list[tuple[Rank, Item]] = []

    def __len__(self) -> int:
        return len(self.ranks)

    def __contains__(self, item: Item) -> bool:
        return item in self.ranks

    def put(self, item: Item, rank: Rank | None) -> None:
        """Add an item, or change its rank; None removes it."""
        if self.ranks.get(item) == rank:
            return
        if rank is None:
            del self.ranks[item]
            return
        self.ranks[item] = rank
        if len(self._heap) > 2 * len(self.ranks) + _SLACK:
            self._heap = [(rank, item) for item, rank in self.ranks.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (rank, item))

    def drop(self, item: Item) -> None:
        """Remove an item, if it is present."""
        self.ranks.pop(item, None)

    def due(self, now: Rank) -> list[Item]:
        """Items whose rank is at most `now`, the lowest first. They stay in the heap."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._is_valid(entry):
                found.append(entry)
        # An equal entry may have been put twice: before its item was removed, and after.
        found = list(dict.fromkeys(found))
        for entry in found:
            heapq.heappush(self._heap, entry)
        return [item for _, item in found]

    def first(self) -> Item | None:
        """The item of the lowest rank; None if there is none."""
        while self._heap:
            rank, item = self._heap[0]
            if self.ranks.get(item) == rank:
                return item
            heapq.heappop(self._heap)
        return None

    def first_rank(self, skip: Container[Item] = ()) -> Rank | None:
        """The lowest rank of an item that is not in `skip`; None if there is none."""
        skipped = []
        found = None
        while self._heap and found is None:
            entry = self._heap[0]
            if self._is_valid(entry) and entry[1] not in skip:
                found = entry[0]
            else:
                heapq.heappop(self._heap)
                if self._is_valid(entry):
                    skipped.append(entry)
        for entry in dict.fromkeys(skipped):
            heapq.heappush(self._heap, entry)
        return found

    def _is_valid(self, entry: tuple[Rank, Item]) -> bool:
        return self.ranks.get(entry[1]) == entry[0]
