"""An event loop whose time passes only when nothing is left to do.

Minutes of backoff take milliseconds, and a run depends on its seed alone, so a failing one can be replayed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

START = datetime(2026, 1, 1, tzinfo=UTC)

Result = TypeVar("Result")


class Deadlock(Exception):
    """Everything waits, and no timer is set that could end it."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type] # a class chosen at run time
    """Instead of waiting for input, lets virtual time pass."""

    virtual = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("all tasks wait for each other")
            self.virtual += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time starts at 0 and is never that of a clock on the wall."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.virtual


def now() -> datetime:
    """The virtual wall clock."""
    return START + timedelta(seconds=asyncio.get_running_loop().time())


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a loop of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
