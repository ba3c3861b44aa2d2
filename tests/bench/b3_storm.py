"""B3: runs of one step: thousands at once, and the highest rate that does not pile up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from tests.bench import budgets
from tests.bench.chains import Chains
from tests.bench.cost import measured
from tests.bench.figures import Result, median
from tests.bench.load import chain, patience
from tests.bench.rating import Period, sustained
from tests.bench.rig import Rig
from tests.bench.say import reporting, say
from tests.bench.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Workflows of the storm, and the seconds in which they are applied. The rising rate ends at the latest
    #: after twice as many.
    runs: int = 5000
    window: int = 60
    #: The rising rate: where it starts and ends at the latest, in runs per 100 seconds, by how much it rises,
    #: and the seconds for which each rate is held.
    start_rate: int = 500
    end_rate: int = 6000
    rise: int = 50
    hold: int = 4


async def run(rig: Rig, size: Size, result: Result) -> None:
    """The storm, then the rising rate, each with a fresh operator."""
    await _storm(rig, size, result)
    if not result.faults:
        await _rising(rig, size, result)


async def _storm(rig: Rig, size: Size, result: Result) -> None:
    names = [f"run-{number:05d}" for number in range(size.runs)]
    async with (
        rig.operator() as operator,
        rig.namespace("b3", keep=True) as namespace,
        Chains(rig.api, namespace) as seen,
    ):

        def progress() -> str:
            return f"{len(seen.runs)} runs applied, {seen.ended()} of {size.runs} ended"

        async with measured(rig) as cost, reporting(progress):
            begun = time.monotonic()
            await _apply(rig, namespace, names, rate=size.runs / size.window)
            applied = time.monotonic() - begun
            await seen.all_ended(size.runs, within=patience(size.runs))
        if faults := seen.faults(names, steps=1):
            result.faults += [*faults[:20], f"the operator's log ends:\n{operator.tail()}"]
            return
        seconds = seen.last_end() - begun
    pods = seen.first_pods()
    waits = [pods[name].created - seen.runs[name].created for name in names]
    result.add("storm: all applied after", applied, "s")
    budget = budgets.STORM_SECONDS if size.runs == 5000 else None
    result.add("storm: all Succeeded after", seconds, "s", samples=size.runs, budget=budget)
    result.add("storm: rate", size.runs / seconds, "runs/s", samples=size.runs)
    result.add_samples("storm: run seen → its pod created", waits)
    result.add("storm: operator CPU", cost.cpu["operator"] / size.runs, "CPU-ms/run")
    result.add("storm: writes to etcd, by everybody", cost.writes() / size.runs, "/run")
    result.details["storm"] = {"per_run": cost.per_step(size.runs)}


async def _rising(rig: Rig, size: Size, result: Result) -> None:
    periods: list[Period] = []
    applied = 0
    async with (
        rig.operator() as operator,
        rig.namespace("b3", keep=True) as namespace,
        Chains(rig.api, namespace) as seen,
    ):
        for rate in range(size.start_rate, size.end_rate + 1, size.rise):
            per_second = rate / 100
            count = max(1, round(per_second * size.hold))
            names = [f"run-{applied + number:06d}" for number in range(count)]
            before = seen.ended()
            begun = time.monotonic()
            await _apply(rig, namespace, names, rate=per_second)
            await asyncio.sleep(max(0.0, begun + count / per_second - time.monotonic()))
            applied += count
            seconds = time.monotonic() - begun
            periods.append(
                Period(
                    rate=count / seconds,
                    ended=(seen.ended() - before) / seconds,
                    waiting=applied - seen.ended(),
                )
            )
            if sustained(periods) is not None or applied >= 2 * size.runs:
                break
            if len(periods) % 5 == 1:
                say(f"{per_second:g} runs/s applied, {periods[-1].waiting} runs not ended")
        await seen.all_ended(applied, within=patience(applied))
        names = [f"run-{number:06d}" for number in range(applied)]
        if faults := seen.faults(names, steps=1):
            result.faults += [*faults[:20], f"the operator's log ends:\n{operator.tail()}"]
            return
    found = sustained(periods)
    result.add(
        "rising rate: the highest that did not pile up",
        periods[-1].rate if found is None else found,
        "runs/s",
        samples=applied,
        budget=budgets.STORM_RATE,
    )
    if found is None:
        result.notes.append(
            "The rate rose to its end and the queue did not grow: take larger --runs and --end-rate."
        )
    else:
        tail = [period.ended for period in periods[-3:]]
        result.add("rising rate: runs that ended where it piled up", median(tail), "runs/s")
    result.details["rising"] = [
        {"rate": period.rate, "ended": period.ended, "waiting": period.waiting} for period in periods
    ]


async def _apply(rig: Rig, namespace: str, names: list[str], *, rate: float) -> None:
    """Create one after the other at that rate; what the server answers late holds up none that follow."""
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(names):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            group.create_task(rig.kube.create("Workflow", namespace, chain(name, steps=1)))


SCENARIO = Scenario(
    name="B3",
    title="runs of one step: a storm, and the rate that can be kept up",
    full=Size(),
    small=Size(runs=10, window=1, start_rate=200, end_rate=400, rise=100, hold=1),
    run=run,
    seconds=lambda size: (
        30
        + size.runs / 15
        + min(2 * size.runs / 15, (size.end_rate - size.start_rate) / size.rise * size.hold)
    ),
)
