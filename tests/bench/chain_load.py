"""Many chains at once: the load of B2, of B5 and of the growth figures, and what it cost everybody."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench.chains import Chains
from tests.bench.cost import Cost, measured
from tests.bench.load import apply_all, chain, patience
from tests.bench.processes import memory_mib
from tests.bench.rig import Rig
from tests.bench.say import reporting
from tests.bench.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The sizes of B2 and B5."""

    #: Applied at once.
    chains: int = 200
    #: Steps of a chain.
    steps: int = 10
    #: Measured repetitions, each after one of a tenth of the size to warm up.
    repeat: int = 5


@dataclass(slots=True)
class Load:
    """A repetition of the load."""

    figures: dict[str, float]
    #: Seconds between pods of a chain.
    gaps: list[float]
    #: Costs divided by the number of steps, for the JSON.
    per_step: dict[str, Any]


@dataclass(slots=True)
class Loads:
    """All repetitions of one size, or what went wrong."""

    runs: list[Load] = field(default_factory=list)
    #: CPU milliseconds of a step by the libraries alone, after each repetition: see `bare.py`.
    bare: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def each(self, key: str) -> list[float]:
        """A figure of every repetition."""
        return [run.figures[key] for run in self.runs]


async def once(rig: Rig, operator: Service, *, chains: int, steps: int) -> tuple[Load | None, list[str]]:
    """Apply so many chains at once; returns when all have ended, with what went wrong."""
    names = [f"chain-{number:04d}" for number in range(chains)]
    total = chains * steps
    async with rig.namespace("chains", keep=True) as namespace, Chains(rig.api, namespace) as seen:

        def progress() -> str:
            return f"{len(seen.pods)} of {total} pods made, {seen.ended()} of {chains} chains ended"

        async with measured(rig) as cost, reporting(progress):
            begun = time.monotonic()
            await apply_all(rig.kube, namespace, [chain(name, steps=steps) for name in names])
            applied = time.monotonic()
            await seen.all_ended(chains, within=patience(total))
        faults = seen.faults(names, steps=steps)
        if faults:
            return None, [*faults[:20], f"the operator's log ends:\n{operator.tail()}"]
        seconds = seen.last_end() - begun
        figures = _figures(cost, total, seconds) | {"applying_seconds": applied - begun}
        figures["operator_peak_mib"] = memory_mib(operator.pid)["peak"]
        return Load(figures, seen.gaps(), cost.per_step(total)), []


def _figures(cost: Cost, steps: int, seconds: float) -> dict[str, float]:
    return {
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "operator_cpu_ms": cost.cpu["operator"] / steps,
        "operator_requests": sum(cost.counts.of_operator().values()) / steps,
        "writes": cost.writes() / steps,
        "others_percent": cost.cpu["others"] / seconds / 10,
    }
