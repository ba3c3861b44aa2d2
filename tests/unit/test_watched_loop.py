"""The watch over the event loop: code that computes for long is named, all else is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from perdure.loop_watch import watch_loop

LIMIT = 0.05
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def compute(seconds: float) -> None:
    """Use so much CPU time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def watched(loop: str, work: Callable[[], Awaitable[None]]) -> list[dict[str, Any]]:
    """What the watch logs meanwhile."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(watch_loop(LIMIT))
            await asyncio.sleep(0.01)
            await work()
            await asyncio.sleep(0.01)
            watch.cancel()

    with capture_logs() as logs, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    return [dict(line) for line in logs]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_callback_beyond_the_limit_is_logged_with_its_code(loop: str) -> None:
    async def work() -> None:
        compute(3 * LIMIT)

    (line,) = watched(loop, work)
    assert line["event"] == "event loop held"
    assert line["cpu_ms"] >= 2 * LIMIT * 1000
    assert any(frame.endswith(" compute") for frame in line["code"])


@pytest.mark.parametrize("loop", LOOPS)
def test_many_short_callbacks_and_waits_are_not_logged(loop: str) -> None:
    async def work() -> None:
        for _ in range(40):
            compute(LIMIT / 10)
            await asyncio.sleep(0)
        time.sleep(2 * LIMIT)  # noqa: ASYNC251 - the thread waits, and uses no CPU

    assert watched(loop, work) == []
