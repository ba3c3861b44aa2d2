"""B2 and B5: many chains at once: steps per second, and what a step costs everybody."""

from __future__ import annotations

import time
from typing import Any

from tests.bench import ceiling
from tests.bench.chains import Chains
from tests.bench.cost import Cost, measured
from tests.bench.figures import Result
from tests.bench.load import apply_all, chain
from tests.bench.options import Options
from tests.bench.processes import memory_mib
from tests.bench.rig import Rig
from tests.bench.service import Service


async def run(rig: Rig, options: Options) -> Result:
    """All chains applied at once."""
    steps = options.chains * options.steps
    result = Result(
        scenario="B2",
        title="chains at once: throughput and cost of a step",
        parameters={"chains": options.chains, "steps": options.steps, "runs": options.throughput_runs},
    )
    runs: list[dict[str, Any]] = []
    gaps: list[float] = []
    async with rig.operator() as operator:
        await _once(rig, operator, result, options, chains=2)  # to warm up
        for _ in range(options.throughput_runs):
            if result.faults:
                return result
            found = await ceiling.measure(rig, options.ceiling, within=options.deadline(options.ceiling))
            figures, run_gaps = await _once(rig, operator, result, options, chains=options.chains)
            figures["ceiling"] = found.pods_per_second
            figures["share_of_ceiling"] = 100 * figures.get("steps_per_second", 0) / found.pods_per_second
            runs.append(figures)
            gaps += run_gaps
    if result.faults:
        return result
    result.details["runs"] = runs

    def add(name: str, key: str, unit: str, *, budget: str = "", most: bool = False) -> None:
        result.add_runs(name, [run[key] for run in runs], unit, budget=budget, most=most)

    add("throughput", "steps_per_second", "steps/s", budget="must ≥ 30, stretch ≥ 45 (200 chains)", most=True)
    add("rig's ceiling just before", "ceiling", "pods/s", most=True)
    add("share of the ceiling", "share_of_ceiling", "%", most=True)
    result.add_samples("pod ended → next pod created", gaps)
    add("operator CPU", "operator_cpu_ms", "CPU-ms/step", budget="must ≤ 5, stretch ≤ 2.5")
    add("operator requests", "operator_requests", "/step", budget="must ≤ 5, stretch ≤ 3.5")
    for name in runs[0]["per_step"]["operator_requests"]:
        values = [run["per_step"]["operator_requests"][name] for run in runs]
        result.add_runs(f"  {name}", values, "/step")
    add("writes to etcd, by everybody", "writes", "/step")
    for name in ("kube-apiserver", "etcd", "postgres", "nats", "kwok", "kube-scheduler"):
        values = [run["per_step"]["cpu_ms"][name] for run in runs]
        result.add_runs(f"  {name} CPU", values, "CPU-ms/step")
    add("operator memory, peak", "operator_peak_mib", "MiB")
    add("CPU of the machine that was not ours", "others_percent", "% of one core")
    result.parameters["total_steps"] = steps
    return result


async def _once(
    rig: Rig, operator: Service, result: Result, options: Options, *, chains: int
) -> tuple[dict[str, Any], list[float]]:
    names = [f"chain-{number:04d}" for number in range(chains)]
    steps = chains * options.steps
    async with rig.namespace("b2") as namespace, Chains(rig.api, namespace) as seen:
        async with measured(rig) as cost:
            begun = time.monotonic()
            await apply_all(rig.kube, namespace, [chain(name, steps=options.steps) for name in names])
            applied = time.monotonic()
            await seen.all_ended(chains, within=options.deadline(steps))
        faults = seen.faults(names, steps=options.steps)
        if faults:
            result.faults += [*faults[:20], f"the operator's log ends:\n{operator.tail()}"]
            return {}, []
        seconds = seen.last_end() - begun
        memory = memory_mib(operator.pid)
        return _figures(cost, steps, seconds, applied - begun, memory), seen.gaps()


def _figures(
    cost: Cost, steps: int, seconds: float, applying: float, memory: dict[str, float]
) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "applying_seconds": round(applying, 3),
        "steps_per_second": steps / seconds,
        "operator_cpu_ms": cost.cpu["operator"] / steps,
        "operator_requests": sum(cost.counts.of_operator().values()) / steps,
        "writes": cost.writes() / steps,
        "operator_peak_mib": memory["peak"],
        "others_percent": cost.cpu["others"] / seconds / 10,
        "per_step": cost.per_step(steps),
    }
