"""B9: how long an agent waits for a checkpoint to be durable: through the gateway, and the ledger alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from perdure.ledger import Ledger
from perdure_agent import Agent, connect
from tests.bench import budgets
from tests.bench.agents import environment_of, save_to_ledger, session_of, start_held
from tests.bench.budgets import Budget
from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario

KIB = 1024
SIZES = (1 * KIB, 32 * KIB, 256 * KIB)
WRITERS = (1, 16, 64)
_BUDGETS: dict[tuple[str, int, int], tuple[Budget | None, Budget | None, Budget | None]] = {
    ("HTTP", KIB, 1): (budgets.CHECKPOINT_P50, budgets.CHECKPOINT_P99, None),
    ("HTTP", 256 * KIB, 1): (budgets.LARGE_CHECKPOINT_P50, None, None),
    ("ledger", KIB, 1): (budgets.ENGINE_P50, budgets.ENGINE_P99, None),
    ("ledger", KIB, 64): (None, None, budgets.CHECKPOINT_RATE),
}
#: Saves a checkpoint, and returns its number once it is durable.
Write = Callable[[bytes], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Of each size and number of writers.
    checkpoints: int = 2000


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Agents of pods that run and do nothing: their attempts are open, and we write in their name."""
    result.parameters |= {"kilobytes": [each // KIB for each in SIZES], "writers": list(WRITERS)}
    result.notes.append("The content is random bytes, which do not compress.")
    count = max(WRITERS)
    async with (
        rig.operator(),
        rig.gateway() as (_, url),
        rig.namespace("b9", keep=True) as namespace,
        Ledger(rig.ledger_url) as ledger,
        AsyncExitStack() as stack,
    ):
        # One task in each run: tasks of one run share a row, which they would wait for.
        async with Chains(rig.api, namespace) as seen:
            pods = await start_held(rig, namespace, seen, runs=count, tasks=1)
        agents = []
        engine: list[Write] = []
        for uid, pod in pods.items():
            session = await session_of(ledger, namespace, uid)
            environment = await environment_of(rig, url, namespace, uid=uid, pod=pod)
            agents.append(await stack.enter_async_context(connect(environment)))
            engine.append(partial(save_to_ledger, ledger, session))
        through_http: list[Write] = [agent.checkpoint for agent in agents]
        for kind, writes in (("ledger", engine), ("HTTP", through_http)):
            for bytes_ in SIZES:
                for writers in WRITERS:
                    say(f"{kind}: {bytes_ // KIB} KB, {writers} at once")
                    data = os.urandom(bytes_)
                    await _write(rig, result, kind, writes[:writers], data, size.checkpoints)
                    await _check(result, agents[0], kind, data)


async def _write(rig: Rig, result: Result, kind: str, writers: list[Write], data: bytes, count: int) -> None:
    taken: list[float] = []
    each = count // len(writers) + 1

    async def work(write: Write) -> None:
        expected = await write(data) + 1
        for number in range(each):
            begun = time.perf_counter()
            sequence = await write(data)
            taken.append(time.perf_counter() - begun)
            if sequence != expected + number:
                result.faults.append(f"checkpoint {sequence} came instead of {expected + number}")

    meter = rig.meter()
    meter.start()
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(work(writer))
    seconds = time.perf_counter() - begun
    used = meter.stop()
    label = f"{kind}: {len(data) // KIB} KB, {len(writers)} at once"
    p50, p99, rate = _BUDGETS.get((kind, len(data), len(writers)), (None, None, None))
    result.add_samples(label, taken, p50=p50, p99=p99)
    written = len(taken) + len(writers)
    result.add(f"{label}: rate", written / seconds, "/s", samples=written, budget=rate)
    if kind == "HTTP":
        result.add(f"{label}: gateway", used["gateway"] / written, "CPU-ms each", samples=written)
    result.details[label] = {"cpu_ms_each": {name: round(value / written, 3) for name, value in used.items()}}


async def _check(result: Result, agent: Agent, kind: str, data: bytes) -> None:
    restored = await agent.restore()
    if restored is None or restored.data != data:
        result.faults.append(f"{kind}, {len(data) // KIB} KB: what was restored is not what was written last")


SCENARIO = Scenario(
    name="B9",
    title="checkpoints: through SDK and gateway, and the ledger alone",
    full=Size(),
    small=Size(checkpoints=20),
    run=run,
    seconds=lambda size: 40 + size.checkpoints * 0.03,
)
