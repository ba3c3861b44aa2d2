"""The watch over event loops that other tests rely on."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.loop_watch import watch_loop


def _burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_a_callback_over_the_limit_is_found_and_named() -> None:
    async def busy_step() -> None:
        await asyncio.sleep(0)
        _burn(0.06)

    with watch_loop() as watch:
        await asyncio.create_task(busy_step())
    assert watch.longest >= 0.06
    with pytest.raises(AssertionError, match="busy_step"):
        watch.check()


async def test_time_between_callbacks_and_of_many_short_ones_is_not_counted_as_one() -> None:
    with watch_loop() as watch:
        for _ in range(5):
            _burn(0.02)
            await asyncio.sleep(0.01)
    watch.check()
    # The step that opened the watch is not measured to its end.
    assert watch.total >= 0.07


async def test_a_watch_that_saw_nothing_refuses_to_pass() -> None:
    with watch_loop() as watch:
        pass
    with pytest.raises(AssertionError, match="no callback"):
        watch.check()


def test_the_loop_is_as_before_after_the_watch() -> None:
    before = asyncio.Handle._run
    with watch_loop():
        assert asyncio.Handle._run is not before
    assert asyncio.Handle._run is before
