"""When something is due, by task: ten thousand tasks may wait for a time, and few of them at once matter.

A heap that is told of every change and never searched: an outdated entry stays where it is, and is thrown
away when it comes up.
"""

from __future__ import annotations

import heapq
from collections.abc import Container
from datetime import datetime

from perdure.domain.records import TaskKey

#: Outdated entries that are borne before the heap is built anew.
_SLACK = 64


class LazyHeap:
    """A time for each of some tasks."""

    __slots__ = ("_heap", "times")

    def __init__(self) -> None:
        #: To be read only.
        self.times: dict[TaskKey, datetime] = {}
        self._heap: list[tuple[datetime, TaskKey]] = []

    def put(self, key: TaskKey, at: datetime | None) -> None:
        """Set a task's time; None takes it out."""
        if self.times.get(key) == at:
            return
        if at is None:
            del self.times[key]
            return
        self.times[key] = at
        if len(self._heap) > 2 * len(self.times) + _SLACK:
            self._heap = [(moment, task) for task, moment in self.times.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (at, key))

    def due(self, now: datetime) -> list[TaskKey]:
        """Tasks whose time has come, the earliest first."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._is_valid(entry):
                found.append(entry)
        # An equal entry may have been put twice: before it was taken out, and after.
        found = list(dict.fromkeys(found))
        for entry in found:
            heapq.heappush(self._heap, entry)
        return [key for _, key in found]

    def first(self, skip: Container[TaskKey] = ()) -> datetime | None:
        """The earliest time of a task that is not to be skipped; None if there is none."""
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

    def _is_valid(self, entry: tuple[datetime, TaskKey]) -> bool:
        return self.times.get(entry[1]) == entry[0]
