"""Moments at which time alone does something to a task, earliest first.

A run may have ten thousand attempts with timeouts, and each sign of life of an agent moves one of them. So a
moment is written down once, and corrected when it comes to the top: it may be too early in here, never too
late.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container
from datetime import datetime

from perdure.domain.records import TaskKey

#: The exact moment of a task as it is now; never earlier than what was set.
Exact = Callable[[TaskKey], datetime]


class Alarms:
    """One moment for each task. A moment that has moved is looked at once, when it comes to the top."""

    def __init__(self) -> None:
        #: With entries that no longer hold: those that differ from `_at`.
        self._heap: list[tuple[datetime, TaskKey]] = []
        self._at: dict[TaskKey, datetime] = {}

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: TaskKey, at: datetime) -> None:
        """From here on, nothing happens to a task before `at`."""
        if self._at.get(key) == at:
            return
        self._at[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._at) + 64:
            self._heap = sorted((moment, name) for name, moment in self._at.items())

    def discard(self, key: TaskKey) -> None:
        """Nothing happens to a task any more."""
        self._at.pop(key, None)

    def due(self, until: datetime, exact: Exact) -> list[TaskKey]:
        """Tasks whose moment is not after `until`, earliest first. They stay."""
        found = []
        while (key := self._first(exact, until)) is not None and self._at[key] <= until:
            heapq.heappop(self._heap)
            found.append(key)
        for key in found:
            heapq.heappush(self._heap, (self._at[key], key))
        return found

    def next(self, exact: Exact, *, without: Container[TaskKey] = ()) -> datetime | None:
        """The earliest moment of all, but for some tasks; None if there is none."""
        passed = []
        while (key := self._first(exact)) is not None and key in without:
            heapq.heappop(self._heap)
            passed.append(key)
        for other in passed:
            heapq.heappush(self._heap, (self._at[other], other))
        return None if key is None else self._at[key]

    def _first(self, exact: Exact, until: datetime | None = None) -> TaskKey | None:
        """The task at the top, once its moment is exact; None if there is none, or only after `until`."""
        while self._heap:
            at, key = self._heap[0]
            if until is not None and at > until:
                return None
            if self._at.get(key) != at:
                heapq.heappop(self._heap)
                continue
            moment = exact(key)
            if moment == at:
                return key
            self._at[key] = moment
            heapq.heapreplace(self._heap, (moment, key))
        return None
