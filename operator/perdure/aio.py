"""A wait for an event with a deadline: a loop that is woken by events also wakes by itself.

A wake-up that is lost therefore delays work by one interval, and never forever.
"""

from __future__ import annotations

import asyncio


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Return as soon as `event` is set, or after `seconds`, whichever comes first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
