"""The work queue under any interleaving of producers, workers and cancellations."""

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.clock import run

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.queue.workqueue import WorkQueue

KEYS = [RunKey("Workflow", "team", name) for name in "abcd"]

steps = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(KEYS)),
    st.tuples(st.just("after"), st.sampled_from(KEYS), st.sampled_from([0, 0.5, 1, 2, 7])),
    st.tuples(st.just("fail"), st.sampled_from(KEYS)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("add and cancel"), st.sampled_from(KEYS), st.integers(0, 3)),
    st.tuples(st.just("sleep"), st.sampled_from([0, 0, 0.25, 1, 5])),
)


class World:
    """Workers that hold each key for some time, and a record of what they were given."""

    def __init__(self, works: list[float]) -> None:
        self.queue = WorkQueue()
        self.works = works
        self.held: set[RunKey] = set()
        self.idle = 0
        #: The keys that workers got, each with its time, and when each key was last added.
        self.given: list[tuple[float, RunKey]] = []
        self.asked: dict[RunKey, int] = {}
        self.workers: list[asyncio.Task[None]] = []

    async def work(self) -> None:
        while True:
            self.idle += 1
            try:
                key = await self.queue.get()
            finally:
                self.idle -= 1
            assert key not in self.held, "a key has one worker"
            self.held.add(key)
            self.given.append((asyncio.get_running_loop().time(), key))
            self.asked.pop(key, None)
            try:
                await asyncio.sleep(self.works[len(self.given) % len(self.works)])
            finally:
                self.held.discard(key)
                self.queue.done(key)

    def hire(self, number: int) -> None:
        self.workers += [asyncio.create_task(self.work()) for _ in range(number)]

    async def sleep(self, seconds: float) -> None:
        """Time passes only when nothing is left to do: no key is queued while a worker is idle."""
        # A little more, so that no delay ends at the very moment of the check.
        await asyncio.sleep(seconds and seconds + 0.01371)
        assert not (seconds and self.idle and len(self.queue))

    async def drain(self) -> None:
        """Time for every delay to end, with a worker if all were cancelled."""
        await self.sleep(0.1)
        self.hire(1)
        await self.sleep(1000)
        assert not self.held
        assert len(self.queue) == 0
        await self.queue.idle()
        for worker in self.workers:
            assert not worker.done() or worker.cancelled(), worker.exception()
            worker.cancel()
        await asyncio.gather(*self.workers, return_exceptions=True)


@settings(max_examples=300)
@given(
    st.lists(steps, max_size=40),
    st.integers(0, 4),
    st.lists(st.sampled_from([0, 0, 0.5, 3]), min_size=1, max_size=4),
)
def test_no_key_is_lost_or_given_to_two(
    script: list[tuple[object, ...]], workers: int, works: list[float]
) -> None:
    async def scenario() -> None:
        world = World(works)
        world.hire(workers)
        asks = 0
        for step in script:
            match step:
                case ("add", RunKey() as key):
                    asks += 1
                    world.asked[key] = asks
                    world.queue.add(key)
                case ("after", RunKey() as key, (int() | float()) as delay):
                    world.asked[key] = asks
                    world.queue.add_after(key, delay)
                case ("fail", RunKey() as key):
                    world.asked[key] = asks
                    world.queue.add_failed(key)
                case ("add and cancel", RunKey() as key, int() as number) if number < len(world.workers):
                    world.asked[key] = asks
                    world.queue.add(key)
                    world.workers[number].cancel()
                case ("cancel", int() as number) if number < len(world.workers):
                    world.workers[number].cancel()
                case ("sleep", (int() | float()) as seconds):
                    await world.sleep(seconds)
        await world.drain()
        # Whatever was asked for came after it was asked for, save a delay that found its key waiting.
        assert not world.asked

    run(scenario())


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([0, 1, 2, 5, 9])), max_size=20))
def test_without_other_calls_each_key_comes_at_its_soonest_time(script: list[tuple[RunKey, float]]) -> None:
    async def scenario() -> None:
        world = World([0])
        world.hire(2)
        for key, delay in script:
            world.queue.add_after(key, delay)
        await world.drain()
        soonest: dict[RunKey, float] = {}
        for key, delay in script:
            soonest[key] = min(delay, soonest.get(key, delay))
        assert {key: time for time, key in world.given} == soonest
        assert all(number == 1 for number in Counter(key for _, key in world.given).values())

    run(scenario())


@given(st.lists(st.sampled_from(KEYS), max_size=20), st.integers(1, 4))
def test_adding_again_before_a_worker_comes_changes_nothing(keys: list[RunKey], workers: int) -> None:
    async def scenario() -> None:
        world = World([1])
        for key in keys:
            world.queue.add(key)
        world.hire(workers)
        await world.drain()
        assert [key for _, key in world.given] == list(dict.fromkeys(keys))

    run(scenario())
