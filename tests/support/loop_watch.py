"""Watch over an event loop: how much CPU time of its thread each callback takes.

The kubelet, agents and other tenants wait while one callback runs, so no request and no object may make a
callback expensive. CPU time of the thread, unlike wall time, is the same on a busy machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: The longest callback that guarantee 11 allows. Seconds of the thread's CPU time.
ALLOWED = 0.05


@dataclass
class LoopWatch:
    """The callbacks since the start of the watch, or since `clear`."""

    #: CPU seconds of the most expensive callback, and what it was.
    longest: float = 0.0
    longest_callback: str = ""
    #: How many callbacks ran: a watch that saw none shows nothing.
    callbacks: int = 0
    #: CPU seconds of all callbacks.
    total: float = 0.0
    #: CPU seconds and description of each callback above the limit.
    over: list[tuple[float, str]] = field(default_factory=list)
    limit: float = ALLOWED

    def note(self, seconds: float, describe: Callable[[], str]) -> None:
        """Count one callback. `describe` is called only for a callback that is worth a name."""
        self.callbacks += 1
        self.total += seconds
        if seconds > self.limit or seconds > self.longest:
            name = describe()
            if seconds > self.longest:
                self.longest, self.longest_callback = seconds, name
            if seconds > self.limit:
                self.over.append((seconds, name))

    def clear(self) -> None:
        """Forget what was seen, such as imports and first connections before an attack."""
        self.longest, self.longest_callback, self.callbacks, self.total = 0.0, "", 0, 0.0
        self.over.clear()

    def check(self) -> None:
        """Raise AssertionError if a callback took more than the limit, or none was seen."""
        assert self.callbacks, "the watch saw no callback: is it around the loop that does the work?"
        assert not self.over, "callbacks over the limit: " + "; ".join(
            f"{seconds * 1000:.0f} ms in {name}" for seconds, name in sorted(self.over, reverse=True)[:5]
        )


@contextmanager
def watch_loop(*, limit: float = ALLOWED) -> Iterator[LoopWatch]:
    """Measure each callback of asyncio's loops in this process while the context is open.

    `limit` is in CPU seconds of the loop's thread. Watches may be nested; each sees all callbacks.
    """
    watch = LoopWatch(limit=limit)
    # `_run` is where asyncio calls every callback, each step of a task among them.
    original: Callable[[Any], None] = asyncio.Handle._run

    def measured(handle: Any) -> None:
        # Before the call: a handle forgets its callback when it is cancelled.
        callback = handle._callback
        began = time.thread_time()
        try:
            original(handle)
        finally:
            watch.note(time.thread_time() - began, lambda: _describe(callback))

    asyncio.Handle._run = measured  # type: ignore[assignment,method-assign]
    try:
        yield watch
    finally:
        asyncio.Handle._run = original  # type: ignore[assignment,method-assign]


def _describe(callback: Any) -> str:
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return f"a step of {task.get_coro()!r}"
    return repr(callback)
