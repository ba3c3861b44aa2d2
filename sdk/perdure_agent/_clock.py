"""Port to time: every wait of the SDK for its gateway goes through a clock, so that a test can replace it.

Waits for the agent's own code stay on the event loop's clock: that code runs in real time.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, Protocol


class Clock(Protocol):
    """Time in seconds. Durations count; the origin means nothing."""

    def time(self) -> float: ...

    def ticks(self) -> int:
        """A number that rises from call to call, in all processes of the pod: the order of checkpoints."""
        ...

    def jitter(self, delay: float) -> float:
        """`delay` less up to half of it, at random: spreads agents that lost the same gateway at once."""
        ...

    async def sleep(self, delay: float) -> None: ...

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[Any]:
        """As `asyncio.timeout`: raises TimeoutError once `delay` seconds have passed; None: never."""
        ...

    def waiting(self) -> AbstractContextManager[None]:
        """Bracket around a call that the agent's body awaits. A virtual clock passes time inside of it."""
        ...


class SystemClock:
    """The event loop's time."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def ticks(self) -> int:
        # The monotonic clock is one for all processes of the pod: an agent of several programs has one order.
        return time.monotonic_ns()

    def jitter(self, delay: float) -> float:
        return delay * random.uniform(0.5, 1.0)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(delay)

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()
