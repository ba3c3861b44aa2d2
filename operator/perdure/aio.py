"""Two small pieces of asyncio: a wait for an event with a deadline, and a task that makes its own coroutine.

A loop that is woken by events also wakes by itself: a wake-up that is lost delays work by one interval, and
never forever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Return as soon as `event` is set, or after `seconds`, whichever comes first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


async def call(work: Callable[[], Awaitable[None]]) -> None:
    """The body of a task that runs `work`.

    The task itself calls `work`: a coroutine that was created before, for a task that is cancelled before
    its first step, would never be awaited.
    """
    await work()
