"""B1: how long one idle operator takes from a step's end to the next step's pod."""

from __future__ import annotations

import time

from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.load import apply_all, chain
from tests.bench.options import Options
from tests.bench.rig import Rig


async def run(rig: Rig, options: Options) -> Result:
    """One chain at a time."""
    result = Result(
        scenario="B1",
        title="one chain: latency between steps",
        parameters={"steps": options.steps, "runs": options.runs},
    )
    gaps: list[float] = []
    first: list[float] = []
    totals: list[float] = []
    async with (
        rig.operator() as operator,
        rig.namespace("b1") as namespace,
        Chains(rig.api, namespace) as seen,
    ):
        for number in range(options.runs + 1):
            name = f"chain-{number}"
            known = len(seen.gaps())
            begun = time.monotonic()
            await apply_all(rig.kube, namespace, [chain(name, steps=options.steps)])
            await seen.all_ended(number + 1, within=options.deadline(options.steps))
            if faults := seen.faults([name], steps=options.steps):
                result.faults += [*faults, f"the operator's log ends:\n{operator.tail()}"]
                return result
            if number == 0:
                continue  # to warm up
            gaps += seen.gaps()[known:]
            first.append(seen.of(name)[0].created - begun)
            totals.append((seen.runs[name].ended or begun) - begun)
    result.add_samples("pod ended → next pod created", gaps, budget="p50 must ≤ 15, stretch ≤ 9")
    result.add_runs("applied → first pod created", [value * 1000 for value in first], "ms")
    result.add_runs(f"applied → Succeeded, {options.steps} steps", [value * 1000 for value in totals], "ms")
    result.details["gaps_ms"] = [round(gap * 1000, 2) for gap in gaps]
    return result
