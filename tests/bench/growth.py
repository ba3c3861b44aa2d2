"""Growth: throughput, CPU of a step, and memory with more runs at once, and with a longer history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from perdure.control.loop import GAP_SECONDS
from tests.bench import chain_load, history
from tests.bench.budgets import Budget
from tests.bench.chains import Chains
from tests.bench.figures import Result, median
from tests.bench.growing import AXES, MEASURES, exponent, series
from tests.bench.load import apply_all, chain, patience
from tests.bench.resting import rest
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario

_CONCURRENT = (10, 100, 1000, 5000)
_FINISHED = (1000, 10_000, 100_000)
#: Bounds of the exponent: of figures that may not grow, give or take noise, and that may grow linearly.
_FLAT = Budget(must=0.1, note="0: the same however many")
_LINEAR = Budget(must=1, note="1: in proportion")
_STEADY = Budget(must=-0.1, most=True, note="0: the same however many")
_BUDGETS = {"steps_per_second": _STEADY, "cpu_ms_per_step": _FLAT, "memory_mib": _LINEAR}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Points up to so many runs at once, and up to so many finished ones; 0 for none.
    concurrent: int = 5000
    finished: int = 100_000
    #: Of every run.
    steps: int = 3
    #: Steps of a point at least: with few runs at once the load is repeated.
    point: int = 1000
    #: Runs at once with which a point of the history is measured.
    probe: int = 100


async def runs_at_once(rig: Rig, size: Size, result: Result) -> None:
    """Each point with a fresh operator, so that its memory is its own."""
    result.details["growth"] = {axis: [] for axis in AXES}
    for runs in upto(_CONCURRENT, size.concurrent):
        if (point := await _point(rig, result, size, runs, label=f"{runs} runs at once")) is None:
            return
        result.details["growth"]["concurrent"].append({"runs": runs, **point})
    _add(result, "concurrent")


async def finished_runs(rig: Rig, size: Size, result: Result) -> None:
    """The same with copies of finished runs, and nothing else: the runs of the other axis were deleted."""
    if not size.finished:
        return
    async with rig.namespace("growth", keep=True) as namespace:
        template = await history.ran_once(rig, namespace, steps=1)
        there = 0
        for runs in upto(_FINISHED, size.finished):
            label = f"{runs} finished runs"
            say(f"{label} are to be there")
            names = [history.copy_name(number) for number in range(there, runs)]
            await history.repeat(rig, template, names, pods=max(0, history.MOST_PODS - there))
            there = runs
            if (point := await _point(rig, result, size, size.probe, label=label)) is None:
                return
            result.details["growth"]["finished"].append({"runs": runs, **point})
    _add(result, "finished")
    result.notes.append("Finished runs are copies of one that ran: see tests/bench/history.py.")


def upto(points: Sequence[int], most: int) -> list[int]:
    """The points up to `most`, and `most` itself."""
    return [*(point for point in points if point < most), most] if most else []


async def _point(rig: Rig, result: Result, size: Size, runs: int, *, label: str) -> dict[str, float] | None:
    repeat = max(1, size.point // (runs * size.steps))
    loads = []
    await rest(rig, label)
    async with rig.namespace("waiting", keep=True) as namespace, Chains(rig.api, namespace) as waiting:
        # The first action after a crash, for which users wait.
        await apply_all(rig.kube, namespace, [chain("waiting", steps=1)])
        begun = time.monotonic()
        async with rig.operator() as operator:
            ready = time.monotonic() - begun
            if not await waiting.all_ended(1, within=patience(1)):
                result.faults.append(f"{label}: what waited for the operator's start did not end")
                return None
            first = min(pod.created for pod in waiting.pods.values()) - begun
            _, faults = await chain_load.once(rig, operator, chains=2, steps=size.steps)  # to warm up
            result.faults += faults
            # The operator relists once more, some time after all watches have begun.
            await rest(rig, f"{label}: ready")
            await asyncio.sleep(GAP_SECONDS)
            await rest(rig, f"{label}: {runs * size.steps} steps, {repeat} times")
            for _ in range(repeat):
                load, faults = await chain_load.once(rig, operator, chains=runs, steps=size.steps)
                result.faults += faults
                if load is None:
                    return None
                loads.append(load.figures)
    return {
        "steps_per_second": median([each["steps_per_second"] for each in loads]),
        "cpu_ms_per_step": median([each["operator_cpu_ms"] for each in loads]),
        "memory_mib": loads[-1]["operator_peak_mib"],
        "start_seconds": ready,
        "first_action_seconds": first,
        "writes_per_step": median([each["writes"] for each in loads]),
    }


def _add(result: Result, axis: str) -> None:
    growth, of = result.details["growth"], AXES[axis]
    for point in growth[axis]:
        result.add(f"{point['runs']} {of}: throughput", point["steps_per_second"], "steps/s")
        result.add(f"{point['runs']} {of}: operator CPU", point["cpu_ms_per_step"], "CPU-ms/step")
        result.add(f"{point['runs']} {of}: operator memory, peak", point["memory_mib"], "MiB")
        result.add(f"{point['runs']} {of}: operator ready after", point["start_seconds"], "s")
        result.add(f"{point['runs']} {of}: first action after", point["first_action_seconds"], "s")
    for measure, title in MEASURES.items():
        points = series(growth, axis, measure)
        if len(points) > 1:
            result.add(
                f"{title}: exponent of its growth with {of}",
                exponent(points),
                "",
                samples=len(points),
                budget=_BUDGETS[measure],
            )


SCENARIO = Scenario(
    name="growth",
    title="how cost grows with runs at once and with history",
    full=Size(),
    small=Size(concurrent=4, finished=6, steps=2, point=8, probe=2),
    run=runs_at_once,
    then=finished_runs,
    seconds=lambda size: 60 + sum(upto(_CONCURRENT, size.concurrent)) * size.steps / 22 + size.finished / 500,
)
