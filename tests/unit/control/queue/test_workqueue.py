"""The work queue on a virtual clock: one entry, one worker a key, delays, backoff."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.fakes.clock import run

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.queue.workqueue import WorkQueue

A, B, C = (RunKey("Workflow", "team", name) for name in "abc")


def now() -> float:
    return asyncio.get_running_loop().time()


def on_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    run(work)


async def next_at(queue: WorkQueue) -> tuple[RunKey, float]:
    """The next key and the time at which it comes; it is given back at once."""
    key = await queue.get()
    queue.done(key)
    return key, now()


async def nothing_comes(queue: WorkQueue, seconds: float = 1000) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await queue.get()


def test_keys_come_in_order_and_once() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        for key in (A, B, A, C, B, A):
            queue.add(key)
        assert len(queue) == 3
        assert [await queue.get() for _ in range(3)] == [A, B, C]
        assert len(queue) == 0
        await nothing_comes(queue)

    on_virtual_time(scenario())


def test_it_is_idle_when_no_key_waits_and_no_worker_has_one() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        await queue.idle()
        queue.add(A)
        queue.add_after(B, 50)
        waiting = asyncio.create_task(queue.idle())
        assert await queue.get() == A
        await asyncio.sleep(1)
        assert not waiting.done(), "a worker has it"
        queue.add(A)
        queue.done(A)
        await asyncio.sleep(1)
        assert not waiting.done(), "it waits again"
        assert await queue.get() == A
        queue.done(A)
        await waiting
        assert now() == 2, "what is due later does not count"
        queue.add(A)
        queue.close()
        await queue.idle()

    on_virtual_time(scenario())


def test_a_key_that_is_added_while_a_worker_has_it_comes_again_afterwards_once() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add(A)
        assert await queue.get() == A
        queue.add(A)
        queue.add(A)
        assert len(queue) == 0
        await nothing_comes(queue)
        queue.done(A)
        assert await queue.get() == A
        queue.done(A)
        await nothing_comes(queue)

    on_virtual_time(scenario())


def test_a_waiting_worker_is_woken() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        workers = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(1)
        queue.add(A)
        queue.add(B)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sorted(worker.result() for worker in workers if worker.done()) == [A, B]
        queue.add(C)
        assert {await worker for worker in workers} == {A, B, C}

    on_virtual_time(scenario())


def test_keys_are_handed_out_after_their_delays() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add_after(A, 5)
        queue.add_after(B, 2)
        queue.add_after(C, 0)
        assert [await next_at(queue) for _ in range(3)] == [(C, 0), (B, 2), (A, 5)]
        await nothing_comes(queue)

    on_virtual_time(scenario())


@pytest.mark.parametrize("delays", [(5, 2), (2, 5), (2, 2), (5, 2, 9, 3)])
def test_the_soonest_of_several_delays_counts(delays: tuple[float, ...]) -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        for delay in delays:
            queue.add_after(A, delay)
        assert await next_at(queue) == (A, 2)
        await nothing_comes(queue)

    on_virtual_time(scenario())


def test_an_immediate_requeue_replaces_a_delayed_one() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add_after(A, 5)
        queue.add(A)
        queue.add_after(A, 7)  # the key is queued already: the delayed requeue is dropped
        assert await next_at(queue) == (A, 0)
        await nothing_comes(queue)
        # A new delay counts, though that of an old entry is still in the heap.
        queue.add_after(A, 5)
        start = now()
        queue.add(A)
        assert await next_at(queue) == (A, start)
        queue.add_after(A, 8)
        assert await next_at(queue) == (A, start + 8)

    on_virtual_time(scenario())


def test_a_delay_that_is_set_while_a_worker_has_the_key_counts_from_then() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add(A)
        key = await queue.get()
        queue.add_after(key, 3)
        queue.done(key)
        assert await next_at(queue) == (A, 3)

    on_virtual_time(scenario())


def test_a_delay_that_ends_while_a_worker_has_the_key_makes_it_come_again() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add(A)
        key = await queue.get()
        queue.add_after(key, 3)
        await asyncio.sleep(10)
        queue.done(key)
        assert await next_at(queue) == (A, 10)
        await nothing_comes(queue)

    on_virtual_time(scenario())


def test_failures_back_off_up_to_a_minute_and_a_success_forgets_them() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        delays = []
        for _ in range(25):
            start = now()
            delays.append(queue.add_failed(A))
            _, came = await next_at(queue)
            assert came - start == pytest.approx(delays[-1])
        assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
        assert delays[10:] == [60.0] * 15
        assert queue.add_failed(B) == 0.1  # each key has its own
        await next_at(queue)
        queue.succeeded(A)
        assert queue.add_failed(A) == 0.1

    on_virtual_time(scenario())


def test_a_failure_after_an_event_does_not_count_twice() -> None:
    """A run whose pods come and go while the ledger is away must not wait a minute once it is back."""

    async def scenario() -> None:
        queue = WorkQueue()
        for _ in range(3):
            queue.add_failed(A)
            await next_at(queue)
        assert queue.add_failed(A) == pytest.approx(0.8)
        for left in (0.6, 0.4, 0.2):
            await asyncio.sleep(0.2)
            queue.add(A)
            await next_at(queue)
            assert queue.add_failed(A) == pytest.approx(left)
        await next_at(queue)
        assert queue.add_failed(A) == pytest.approx(1.6)

    on_virtual_time(scenario())


def test_a_cancelled_worker_takes_no_key_with_it() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        first, second = (asyncio.create_task(queue.get()) for _ in range(2))
        await asyncio.sleep(1)
        queue.add(A)  # wakes the first …
        first.cancel()  # … which is cancelled before it can run
        assert await second == A
        with pytest.raises(asyncio.CancelledError):
            await first

    on_virtual_time(scenario())


def test_keys_outlive_all_their_workers() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        worker = asyncio.create_task(queue.get())
        await asyncio.sleep(1)
        queue.add(A)
        worker.cancel()
        await asyncio.sleep(0)
        assert await queue.get() == A

    on_virtual_time(scenario())


def test_a_closed_queue_has_forgotten_all_that_waits() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        queue.add(A)
        assert await queue.get() == A
        queue.add(A)
        queue.add(B)
        queue.add_after(C, 1)
        queue.close()
        queue.done(A)
        assert len(queue) == 0
        await nothing_comes(queue)
        # The queue can be used again, and the keys that workers had are free again.
        queue.add(A)
        queue.add_after(C, 1)
        start = now()
        assert [await next_at(queue), await next_at(queue)] == [(A, start), (C, start + 1)]

    on_virtual_time(scenario())


def keys(namespace: str, number: int) -> list[RunKey]:
    return [RunKey("Workflow", namespace, f"run-{index}") for index in range(number)]


def test_namespaces_take_turns() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        many, few, one = keys("many", 1000), keys("few", 2), keys("one", 1)
        for key in (*many, *few, *one):
            queue.add(key)
        assert len(queue) == 1003
        assert [await queue.get() for _ in range(6)] == [many[0], few[0], one[0], many[1], few[1], many[2]]

    on_virtual_time(scenario())


def test_the_length_counts_the_keys_that_wait_in_all_namespaces() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        keys = [RunKey("Workflow", namespace, name) for namespace in ("one", "two") for name in "ab"]
        for key in keys:
            queue.add(key)
            queue.add(key)
        assert len(queue) == len(queue.ready()) == 4
        first = await queue.get()
        queue.add(first)  # waits for its worker, not for any
        queue.add_after(RunKey("Workflow", "three", "a"), 5.0)
        assert len(queue) == len(queue.ready()) == 3
        assert queue.pending == 4
        queue.done(first)
        assert len(queue) == len(queue.ready()) == 4
        queue.close()
        assert len(queue) == queue.pending == 0

    on_virtual_time(scenario())


def test_a_namespace_cannot_take_all_workers() -> None:
    async def scenario() -> None:
        queue = WorkQueue(shared=3)
        many = keys("many", 5)
        for key in many:
            queue.add(key)
        taken = [await queue.get() for _ in range(3)]
        assert taken == many[:3]
        await nothing_comes(queue, 1)
        waiting = asyncio.create_task(queue.get())
        (other,) = keys("other", 1)
        queue.add(other)
        assert await waiting == other, "the fourth worker serves another namespace"
        waiting = asyncio.create_task(queue.get())
        queue.done(many[0])
        await asyncio.sleep(1)
        assert not waiting.done(), "three keys have workers"
        queue.done(other)
        assert await waiting == many[3]

    on_virtual_time(scenario())


def test_a_held_key_waits_whatever_happens_and_until_its_object_changes() -> None:
    async def scenario() -> None:
        queue = WorkQueue()
        for _ in range(6):
            queue.add(A)
            assert await queue.get() == A
            delay = queue.add_failed(A, longest=300, hold=True)
            queue.done(A)
            begun = now()
            queue.add(A)
            queue.add_after(A, delay / 2)
            queue.add(B)
            assert await next_at(queue) == (B, begun)
            key, at = await next_at(queue)
            assert key == A and at == pytest.approx(begun + delay)
        for _ in range(20):
            delay = queue.add_failed(A, longest=300, hold=True)
            await asyncio.sleep(delay)
        assert delay == 300
        queue.release(A)
        begun = now()
        queue.add(A)
        assert await next_at(queue) == (A, begun)

    on_virtual_time(scenario())
