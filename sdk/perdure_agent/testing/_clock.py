"""Virtual clock, so that an agent's test never waits for a retry, a heartbeat or a Retry-After."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

#: Turns of the event loop without activity after which all coroutines of the SDK count as waiting.
#: Releasing a lock or an event takes its waiter two or three turns.
_QUIET_TURNS = 25
#: Virtual seconds after which sleepers fail. A fault without end, met by a call without end to its patience,
#: would otherwise spin for ever.
_HORIZON = 366 * 86_400.0


@dataclass(order=True, slots=True)
class _Timer:
    due: float
    number: int
    fire: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)


class Backstop(Protocol):
    """What acts in `Clock.compute`. `fire` must put off `due`."""

    def due(self) -> float: ...

    def fire(self) -> None: ...


class Clock:
    """Time of one test gateway, in seconds from 0.

    While the agent's body awaits a call of the SDK, time jumps to the next timer as soon as no coroutine of
    the SDK can run. At all other times only `advance` moves the clock. The agent's own code runs in real
    time.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._now = 0.0
        self._ticks = 0
        self._random = random.Random(seed)
        self._timers: list[_Timer] = []
        #: Senders of heartbeats during `compute`.
        self.backstops: list[Backstop] = []
        self._numbers = 0
        #: Calls of the SDK that agents' bodies await now.
        self._calls = 0
        self._turn: asyncio.Handle | None = None
        self._activity = 0
        self._seen = 0
        self._quiet = 0

    @property
    def now(self) -> float:
        """Seconds since the gateway was made."""
        return self._now

    async def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`, and fire all timers that become due, in order."""
        until = self._now + seconds
        await self._settle()
        while (timer := self._next()) is not None and timer.due <= until:
            self._fire()
            await self._settle()
        self._now = max(self._now, until)

    def compute(self, seconds: float) -> None:
        """Stand in for work of `seconds` during which the agent's code does not leave the event loop a turn.

        Heartbeats are sent meanwhile, as the SDK's thread does; all else waits. Raises Killed if one of the
        heartbeats meets a scripted `Kill`.
        """
        until = self._now + seconds
        while (due := min((backstop.due() for backstop in self.backstops), default=until)) < until:
            self._now = max(self._now, due)
            for backstop in list(self.backstops):
                if backstop.due() <= self._now:
                    backstop.fire()
        self._now = max(self._now, until)

    def time(self) -> float:
        return self._now

    def ticks(self) -> int:
        self._ticks += 1
        return self._ticks

    def jitter(self, delay: float) -> float:
        return delay * self._random.uniform(0.5, 1.0)

    async def sleep(self, delay: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if woken.done():
                return
            if self._now > _HORIZON:
                woken.set_exception(
                    RuntimeError("a year of virtual time has passed: the scripted fault has no end")
                )
            else:
                woken.set_result(None)

        timer = self._set(delay, wake)
        try:
            await woken
        finally:
            timer.cancelled = True
            self._active()

    @asynccontextmanager
    async def timeout(self, delay: float | None) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as scope:
            timer = None if delay is None else self._set(delay, lambda: scope.reschedule(loop.time()))
            try:
                yield
            finally:
                if timer is not None:
                    timer.cancelled = True
                self._active()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._calls += 1
        self._active()
        self._arm()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls and self._turn is not None:
                self._turn.cancel()
                self._turn = None

    def _set(self, delay: float, fire: Callable[[], None]) -> _Timer:
        self._numbers += 1
        timer = _Timer(self._now + max(0.0, delay), self._numbers, fire)
        heapq.heappush(self._timers, timer)
        self._active()
        self._arm()
        return timer

    def _next(self) -> _Timer | None:
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0] if self._timers else None

    def _fire(self) -> None:
        timer = heapq.heappop(self._timers)
        self._now = max(self._now, timer.due)
        self._active()
        timer.fire()

    def _active(self) -> None:
        """Record that a coroutine of the SDK runs."""
        self._activity += 1
        self._quiet = 0

    async def _settle(self) -> None:
        """Return once all coroutines of the SDK wait for a timer."""
        seen, quiet = self._activity, 0
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = quiet + 1 if seen == self._activity else 0
            seen = self._activity

    def _arm(self) -> None:
        if self._turn is None and self._calls and self._next() is not None:
            self._turn = asyncio.get_running_loop().call_soon(self._on_turn)

    def _on_turn(self) -> None:
        """One turn of the event loop while a call waits and a timer is set."""
        self._turn = None
        self._quiet = self._quiet + 1 if self._seen == self._activity else 0
        self._seen = self._activity
        if self._quiet >= _QUIET_TURNS and self._next() is not None:
            self._fire()
        self._arm()
