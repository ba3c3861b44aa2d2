"""Waiting for a condition, with a deadline, instead of sleeping and hoping: on real and on virtual time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(
    condition: Callable[[], T | Awaitable[T | None] | None], *, within: float = 30.0, poll: float = 0.01
) -> T:
    """The first true result of `condition`, which may be async, checked every `poll` seconds.

    Raises TimeoutError after `within` seconds, which only a defect needs.
    """
    async with asyncio.timeout(within):
        while True:
            result = condition()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(poll)
