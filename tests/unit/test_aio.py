"""The small pieces of asyncio that every loop uses."""

from __future__ import annotations

import asyncio
import gc
import warnings

from perdure.aio import call


async def test_a_task_that_is_cancelled_before_its_first_step_leaves_no_coroutine() -> None:
    called = False

    async def work() -> None:
        nonlocal called
        called = True

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = asyncio.create_task(call(work))
        task.cancel()
        await asyncio.wait([task])
        gc.collect()
    assert task.cancelled()
    assert not called
    assert not caught


async def test_the_exception_of_the_work_is_that_of_the_task() -> None:
    async def work() -> None:
        raise ValueError("of the work")

    task = asyncio.create_task(call(work))
    await asyncio.wait([task])
    assert str(task.exception()) == "of the work"
