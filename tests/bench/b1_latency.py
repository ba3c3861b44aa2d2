"""B1: how long one idle operator takes from a step's end to the next step's pod."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.bench import budgets
from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.load import apply_all, chain, patience
from tests.bench.rig import Rig
from tests.bench.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Measured chains, after one to warm up. As many as p99 needs samples for.
    runs: int = 112
    #: Steps of a chain.
    steps: int = 10


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Run one chain at a time."""
    gaps: list[float] = []
    first: list[float] = []
    totals: list[float] = []
    async with (
        rig.operator() as operator,
        rig.namespace("b1", keep=True) as namespace,
        Chains(rig.api, namespace) as seen,
    ):
        for number in range(size.runs + 1):
            name = f"chain-{number}"
            begun = time.monotonic()
            await apply_all(rig.kube, namespace, [chain(name, steps=size.steps)])
            await seen.all_ended(number + 1, within=patience(size.steps))
            if faults := seen.faults([name], steps=size.steps):
                result.faults += [*faults, f"the operator's log ends:\n{operator.tail()}"]
                return
            if number == 0:
                continue  # to warm up
            gaps += seen.gaps_of(name)
            first.append(seen.of(name)[0].created - begun)
            totals.append((seen.runs[name].ended or begun) - begun)
    result.add_samples(
        "pod ended → next pod created", gaps, p50=budgets.CHAIN_GAP_P50, p99=budgets.CHAIN_GAP_P99
    )
    result.add_runs("applied → first pod created", [value * 1000 for value in first], "ms")
    budget = budgets.CHAIN_TOTAL if size.steps == 10 else None
    result.add_runs(
        f"applied → Succeeded, {size.steps} steps", [value * 1000 for value in totals], "ms", budget=budget
    )
    result.details["gaps_ms"] = [round(gap * 1000, 2) for gap in gaps]


SCENARIO = Scenario(
    name="B1",
    title="one chain: latency between steps",
    full=Size(),
    small=Size(runs=2, steps=3),
    run=run,
    seconds=lambda size: 15 + size.runs * size.steps * 0.08,
)
