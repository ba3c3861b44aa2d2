"""Bounds on what requests hold at once: bytes of bodies in memory, or uploads under way.

Two hundred agents that restore together after the loss of a node must not exhaust the gateway's memory: the
gateway's death would interrupt the checkpoints of all other agents.
"""

from __future__ import annotations

import asyncio

from perdure.gateway.http.problems import HttpProblem, Problem


class Hold:
    """A share of a budget. `release` is idempotent."""

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self._size = size

    def shrink(self, size: int) -> None:
        """Reduce the share to `size`, if the share is larger."""
        if size < self._size:
            self._budget.give_back(self._size - size)
            self._size = size

    def release(self) -> None:
        self.shrink(0)


class Budget:
    """A counting semaphore whose acquisitions have sizes and deadlines. First come, first served."""

    def __init__(self, total: int, *, wait: float) -> None:
        """`wait` is the longest time, in seconds, that an acquisition may take."""
        self._total = total
        self._free = total
        self._wait = wait
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def free(self) -> int:
        return self._free

    async def hold(self, size: int) -> Hold:
        """A share of `size`, as soon as there is one. Raises Problem(busy) after `wait` seconds."""
        # A body larger than the whole budget is admitted alone.
        size = min(size, self._total)
        try:
            async with asyncio.timeout(self._wait):
                # The lock is the queue. Without the lock a stream of small bodies would starve a large one.
                async with self._turn:
                    while self._free < size:
                        self._released.clear()
                        await self._released.wait()
                    self._free -= size
        except TimeoutError:
            raise Problem(
                HttpProblem.BUSY, "body: the gateway holds as many large bodies as it can; send it again"
            ) from None
        return Hold(self, size)

    def give_back(self, size: int) -> None:
        self._free += size
        self._released.set()
