"""B4: a wide step and the one that gathers its results."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.bench import budgets
from tests.bench.chains import Chains
from tests.bench.cost import measured
from tests.bench.figures import Result
from tests.bench.load import patience
from tests.bench.processes import memory_mib
from tests.bench.rig import Rig
from tests.bench.say import reporting, say
from tests.bench.scenario import Scenario
from tests.scale.fan_out import NAME, fan_out

_BUDGETS = {1000: budgets.FAN_OUT_SECONDS, 5000: budgets.LARGE_FAN_OUT_SECONDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Items of the smaller and of the larger fan-out.
    items: int = 1000
    more_items: int = 5000
    #: Repetitions of the smaller one.
    repeat: int = 3


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Each with a fresh operator."""
    for items, repeat in ((size.items, size.repeat), (size.more_items, 1)):
        found: list[dict[str, float]] = []
        for number in range(repeat):
            if result.faults:
                return
            say(f"fan-out of {items}, {number + 1} of {repeat}")
            found += await _once(rig, result, items)
        if not result.faults:
            _add(result, items, found)


def _add(result: Result, items: int, found: list[dict[str, float]]) -> None:
    for name, key, unit, budget in (
        ("applied → reducer's pod created", "reducer_seconds", "s", _BUDGETS.get(items)),
        ("last pod ended → reducer's pod created", "after_last_ms", "ms", budgets.REDUCER),
        ("applied → Succeeded", "seconds", "s", None),
        ("largest status", "status_kib", "KiB", budgets.STATUS_KIB),
        ("operator CPU", "cpu_ms", "CPU-ms/task", None),
        ("operator memory, peak", "peak_mib", "MiB", None),
    ):
        result.add_runs(f"{items} items: {name}", [each[key] for each in found], unit, budget=budget)


async def _once(rig: Rig, result: Result, items: int) -> list[dict[str, float]]:
    async with (
        rig.operator() as operator,
        rig.namespace("b4", keep=True) as namespace,
        Chains(rig.api, namespace) as seen,
    ):
        async with measured(rig) as cost, reporting(lambda: f"{len(seen.pods)} of {items + 1} pods made"):
            begun = time.monotonic()
            await rig.kube.create("Workflow", namespace, fan_out(items, parallelism=None))
            await seen.all_ended(1, within=2 * patience(items))
        peak = memory_mib(operator.pid)["peak"]
        run_seen = seen.runs.get(NAME)
        if run_seen is None or run_seen.phase != "Succeeded" or run_seen.ended is None:
            phase = "never seen" if run_seen is None else run_seen.phase
            result.faults.append(f"{items} items: {phase}; the operator's log ends:\n{operator.tail()}")
            return []
        names = [pod.name for pod in seen.pods.values()]
        if len(names) != items + 1 or len(set(names)) != items + 1:
            result.faults.append(f"{items} items: {len(names)} pods of {len(set(names))} names")
            return []
        (reducer,) = (pod for pod in seen.pods.values() if pod.step == "join")
        last = max(pod.ended or 0.0 for pod in seen.pods.values() if pod.step == "each")
        return [
            {
                "reducer_seconds": reducer.created - begun,
                "after_last_ms": (reducer.created - last) * 1000,
                "seconds": run_seen.ended - begun,
                "status_kib": run_seen.status_bytes / 1024,
                "cpu_ms": cost.cpu["operator"] / items,
                "peak_mib": peak,
            }
        ]


SCENARIO = Scenario(
    name="B4",
    title="fan-out and fan-in",
    full=Size(),
    small=Size(items=10, more_items=20, repeat=1),
    run=run,
    seconds=lambda size: 30 + (size.items * size.repeat + size.more_items) / 20,
)
