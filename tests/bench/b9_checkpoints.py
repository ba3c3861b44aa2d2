"""B9: how long an agent waits for a checkpoint to be durable: through the gateway, and the ledger alone."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from perdure.ledger import AgentSession, Ledger
from tests.bench import agent_process, budgets
from tests.bench.agents import environment_of, save_to_ledger, session_of, start_held
from tests.bench.asked import Asked
from tests.bench.budgets import Budget
from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.load import patience
from tests.bench.resting import rest
from tests.bench.rig import Rig
from tests.bench.scenario import Scenario

KIB = 1024
SIZES = (1 * KIB, 32 * KIB, 256 * KIB)
WRITERS = (1, 16, 64)
#: Budgets of p50, p99 and rate.
_Bounds = tuple[Budget | None, Budget | None, Budget | None]
_NONE: _Bounds = (None, None, None)
_BUDGETS: dict[tuple[str, int, int], _Bounds] = {
    ("HTTP", KIB, 1): (budgets.CHECKPOINT_P50, budgets.CHECKPOINT_P99, None),
    ("HTTP", 256 * KIB, 1): (budgets.LARGE_CHECKPOINT_P50, None, None),
    ("ledger", KIB, 1): (budgets.ENGINE_P50, budgets.ENGINE_P99, None),
    ("ledger", KIB, 64): (None, None, budgets.CHECKPOINT_RATE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Checkpoints of each size and number of writers.
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
        # One task in each run: tasks of one run share a row, whose lock they would wait for.
        async with Chains(rig.api, namespace) as seen:
            pods = await start_held(rig, namespace, seen, runs=count, tasks=1)
        sessions = []
        environments = []
        for uid, pod in pods.items():
            sessions.append(await session_of(ledger, namespace, uid))
            environments.append(await environment_of(rig, url, namespace, uid=uid, pod=pod))
        loads = [(bytes_, writers) for bytes_ in SIZES for writers in WRITERS]
        for bytes_, writers in loads:
            each = size.checkpoints // writers + 1
            await _to_ledger(rig, result, ledger, sessions[:writers], bytes_, each)
        agents = await stack.enter_async_context(agent_process.started(rig, environments))
        for bytes_, writers in loads:
            each = size.checkpoints // writers + 1
            await _through_http(rig, result, agents, writers, bytes_, each)


async def _to_ledger(
    rig: Rig, result: Result, ledger: Ledger, sessions: list[AgentSession], bytes_: int, each: int
) -> None:
    label = _label("ledger", bytes_, len(sessions))
    await rest(rig, label)
    data = os.urandom(bytes_)
    taken: list[float] = []

    async def work(session: AgentSession) -> int:
        first = sequence = await save_to_ledger(ledger, session, data)
        for number in range(1, each + 1):
            begun = time.perf_counter()
            sequence = await save_to_ledger(ledger, session, data)
            taken.append(time.perf_counter() - begun)
            if sequence != first + number:
                result.faults.append(f"{label}: {sequence} came instead of {first + number}")
        return sequence

    meter = rig.meter()
    meter.start()
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        last, *_ = [group.create_task(work(session)) for session in sessions]
    seconds = time.perf_counter() - begun
    used = meter.stop()
    kept = await ledger.checkpoint(sessions[0], last.result())
    if kept is None or kept.data != data:
        result.faults.append(f"{label}: what is kept is not what was written last")
    bounds = _BUDGETS.get(("ledger", bytes_, len(sessions)), _NONE)
    _add(result, label, taken, seconds, written=len(taken) + len(sessions), used=used, bounds=bounds)


async def _through_http(
    rig: Rig, result: Result, agents: Asked, writers: int, bytes_: int, each: int
) -> None:
    label = _label("HTTP", bytes_, writers)
    await rest(rig, label)
    meter = rig.meter(agents=[agents.pid])
    meter.start()
    order = {"writers": writers, "bytes": bytes_, "each": each}
    found = await agents.ask(order, within=patience(writers * each))
    used = meter.stop()
    result.faults += [f"{label}: {fault}" for fault in found["faults"]]
    taken = found["taken"]
    written = len(taken) + writers
    bounds = _BUDGETS.get(("HTTP", bytes_, writers), _NONE)
    _add(result, label, taken, found["seconds"], written=written, used=used, bounds=bounds)
    for name in ("gateway", "agents"):
        result.add(f"{label}: {name}", used[name] / written, "CPU-ms each", samples=written)


def _add(
    result: Result,
    label: str,
    taken: list[float],
    seconds: float,
    *,
    written: int,
    used: dict[str, float],
    bounds: _Bounds,
) -> None:
    p50, p99, rate = bounds
    result.add_samples(label, taken, p50=p50, p99=p99)
    result.add(f"{label}: rate", written / seconds, "/s", samples=written, budget=rate)
    result.details[label] = {"cpu_ms_each": {name: round(value / written, 3) for name, value in used.items()}}


def _label(kind: str, bytes_: int, writers: int) -> str:
    return f"{kind}: {bytes_ // KIB} KB, {writers} at once"


SCENARIO = Scenario(
    name="B9",
    title="checkpoints: through SDK and gateway, and the ledger alone",
    full=Size(),
    small=Size(checkpoints=20),
    run=run,
    seconds=lambda size: 80 + size.checkpoints * 0.03,
)
