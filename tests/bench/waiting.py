"""Waiting for what a question to a server answers, with its type kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.integration.waiting import until

T = TypeVar("T")


async def poll(question: Callable[[], Awaitable[T | None]], *, within: float) -> T:
    """The first true answer. Raises TimeoutError after so many seconds."""
    found: T | None = await until(question, within=within)
    assert found is not None
    return found
