"""Bounds on what requests hold at once, shared fairly: bytes in memory, or uploads under way.

Two hundred agents that restore together after the loss of a node must not exhaust the gateway's memory: the
gateway's death would interrupt the checkpoints of all other agents. And one agent, or all agents of one
namespace, must not hold everything while others wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import NamedTuple, TypeVar

from perdure.gateway.authn import Owner
from perdure.gateway.http.problems import HttpProblem, Problem

_Key = TypeVar("_Key")


class Hold:
    """A share of a budget. `release` is idempotent."""

    def __init__(self, budget: Budget, owner: Owner, size: int) -> None:
        self._budget = budget
        self._owner = owner
        self._size = size

    def shrink(self, size: int) -> None:
        """Reduce the share to `size`, if the share is larger."""
        if size < self._size:
            self._budget.give_back(self._owner, self._size - size)
            self._size = size

    def release(self) -> None:
        self.shrink(0)


class _Waiter(NamedTuple):
    owner: Owner
    size: int
    granted: asyncio.Future[None]


class Budget:
    """A counting semaphore whose acquisitions have owners, sizes and deadlines.

    A freed share goes to the namespace that holds least, and within it to the request that has waited
    longest. A caller without a share always gets one of any size that fits, whatever the share of a caller
    is.
    """

    def __init__(
        self,
        total: int,
        *,
        wait: float,
        per_caller: int | None = None,
        per_namespace: int | None = None,
        queued_per_caller: int = 16,
    ) -> None:
        """`wait` is the longest time, in seconds, that an acquisition may take.

        Of one caller, at most `queued_per_caller` acquisitions wait; further ones are refused at once.
        """
        self._total = total
        self._free = total
        self._wait = wait
        self._per_caller = total if per_caller is None else per_caller
        self._per_namespace = total if per_namespace is None else per_namespace
        self._queued_per_caller = queued_per_caller
        self._by_caller: Counter[Owner] = Counter()
        self._by_namespace: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._queued: Counter[Owner] = Counter()

    @property
    def free(self) -> int:
        return self._free

    async def hold(self, size: int, owner: Owner) -> Hold:
        """A share of `size`, as soon as there is one. Raises Problem(busy) after `wait` seconds."""
        # A body larger than the whole budget is admitted alone.
        size = min(size, self._total)
        if not self._waiting and self._fits(size, owner):
            self._take(size, owner)
            return Hold(self, owner, size)
        if self._queued[owner] >= self._queued_per_caller:
            raise _busy()
        waiter = _Waiter(owner, size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(owner.namespace, deque()).append(waiter)
        self._queued[owner] += 1
        # The caller's namespace may be entitled to what others only wait for.
        self._grant()
        try:
            async with asyncio.timeout(self._wait):
                await waiter.granted
        except TimeoutError:
            if not waiter.granted.done() or waiter.granted.cancelled():
                self._forget(waiter)
                raise _busy() from None
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.give_back(owner, size)
            else:
                self._forget(waiter)
            raise
        return Hold(self, owner, size)

    def give_back(self, owner: Owner, size: int) -> None:
        """Called by `Hold`."""
        self._free += size
        _subtract(self._by_caller, owner, size)
        _subtract(self._by_namespace, owner.namespace, size)
        self._grant()

    def _fits(self, size: int, owner: Owner) -> bool:
        by_caller, by_namespace = self._by_caller[owner], self._by_namespace[owner.namespace]
        return (
            size <= self._free
            and (not by_caller or by_caller + size <= self._per_caller)
            and (not by_namespace or by_namespace + size <= self._per_namespace)
        )

    def _take(self, size: int, owner: Owner) -> None:
        self._free -= size
        self._by_caller[owner] += size
        self._by_namespace[owner.namespace] += size

    def _grant(self) -> None:
        while self._waiting:
            waiter = self._next()
            if waiter is None:
                return
            self._remove(waiter)
            self._take(waiter.size, waiter.owner)
            waiter.granted.set_result(None)

    def _next(self) -> _Waiter | None:
        """The request that gets what is free; None if it needs more than that."""
        for namespace in sorted(self._waiting, key=self._by_namespace.__getitem__):
            for waiter in self._waiting[namespace]:
                if self._fits(waiter.size, waiter.owner):
                    return waiter
                if waiter.size > self._free:
                    # Without this a stream of small requests would starve a large one.
                    return None
        return None

    def _remove(self, waiter: _Waiter) -> None:
        queue = self._waiting[waiter.owner.namespace]
        queue.remove(waiter)
        if not queue:
            del self._waiting[waiter.owner.namespace]
        _subtract(self._queued, waiter.owner, 1)

    def _forget(self, waiter: _Waiter) -> None:
        self._remove(waiter)
        # The waiter may have been the large one that others waited behind.
        self._grant()


def _subtract(counts: Counter[_Key], key: _Key, size: int) -> None:
    counts[key] -= size
    if not counts[key]:
        del counts[key]


def _busy() -> Problem:
    return Problem(HttpProblem.BUSY, "body: the gateway holds as many large bodies as it can; send it again")
