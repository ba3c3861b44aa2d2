"""Progress of a benchmark, one line each: the long ones take long."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_BEGUN = time.monotonic()


def say(text: str) -> None:
    """Print a line, with the time since the start."""
    print(f"  [{duration(time.monotonic() - _BEGUN):>8}] {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A duration for people: `40 s`, `12 min`, `1.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@asynccontextmanager
async def reporting(text: Callable[[], str], *, every: float = 15.0) -> AsyncIterator[None]:
    """Say how it stands now and then, while the body runs."""

    async def report() -> None:
        while True:
            await asyncio.sleep(every)
            say(text())

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
