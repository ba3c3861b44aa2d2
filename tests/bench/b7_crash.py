"""B7: kill -9 of the operator: how soon its successor acts, and whether anything is lost or doubled."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from tests.bench import budgets
from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.load import apply_all, chain, patience, slow_chain
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario
from tests.bench.service import Service
from tests.integration.kills.history import faults_of

#: Between these shares of all pods having ended the operator is killed.
EARLIEST, LATEST = 0.1, 0.7
#: Seconds for the pods that run to end without it.
_REST = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: How often the operator is killed.
    crashes: int = 100
    #: Chains that are under way at each kill, and their steps.
    chains: int = 20
    steps: int = 10
    #: Runs beside them that only wait for their pods, for the successor to read.
    waiting: int = 1000


async def run(rig: Rig, size: Size, result: Result) -> None:
    """The same load for each kill, which comes at a random moment of it."""
    first: list[float] = []
    caught_up: list[float] = []
    chance = random.Random(7)
    async with (
        rig.operator() as operator,
        rig.namespace("b7", keep=True) as beside,
        Chains(rig.api, beside) as waiting,
    ):
        names = [f"held-{number:05d}" for number in range(size.waiting)]
        manifests = [slow_chain(name, steps=size.steps, how="hang") for name in names]
        if names:
            await apply_all(rig.kube, beside, manifests)
            await waiting.all_in("Running", names, within=patience(size.waiting))
        for number in range(size.crashes):
            share = chance.uniform(EARLIEST, LATEST)
            times = await _once(rig, operator, result, size, share=share)
            if times is None:
                result.faults.append(f"crash {number + 1}; the operator's log ends:\n{operator.tail()}")
                return
            say(f"crash {number + 1} of {size.crashes}: first action after {times[0]:.2f} s")
            first.append(times[0])
            caught_up.append(times[1])
        doubled = len(waiting.pods) - size.waiting
    result.add_runs("exec → first pod created", first, "s", budget=budgets.FIRST_ACTION)
    result.add_runs("exec → every waiting run went on", caught_up, "s", budget=budgets.CAUGHT_UP)
    result.add("pods made twice, steps lost", doubled, "", samples=size.crashes, budget=budgets.NEVER)
    if doubled:
        result.faults.append(f"runs that only waited got {doubled} pods more")


async def _once(
    rig: Rig, operator: Service, result: Result, size: Size, *, share: float
) -> tuple[float, float] | None:
    names = [f"chain-{number:04d}" for number in range(size.chains)]
    steps = size.chains * size.steps
    async with rig.namespace("b7") as namespace, Chains(rig.api, namespace) as seen:
        await apply_all(rig.kube, namespace, [chain(name, steps=size.steps) for name in names])
        await seen.pods_ended(round(steps * share), within=patience(steps))
        await operator.kill()
        # Pods go on to end while nobody looks: what they leave is what the successor has to find.
        await seen.no_pod_runs(within=_REST)
        waiting = [name for name in names if name not in seen.runs or seen.runs[name].ended is None]
        started = await operator.start()
        await seen.all_ended(len(names), within=patience(steps))
        faults = seen.faults(names, steps=size.steps)
        faults += await faults_of(rig.ledger_url, namespace, runs=len(names), steps=size.steps)
        result.faults += faults
        if faults:
            return None
        went_on = [_went_on(seen, name, started) - started for name in waiting]
        made = [pod.created - started for pod in seen.pods.values() if pod.created > started]
        if not made:
            result.faults.append("everything was over when the operator was killed: take more chains")
            return None
        return min(made), max(went_on)


def _went_on(seen: Chains, name: str, started: float) -> float:
    """When a run that was waiting got its next pod, or its end."""
    made = [pod.created for pod in seen.of(name) if pod.created > started]
    return min(made, default=seen.runs[name].ended or time.monotonic())


SCENARIO = Scenario(
    name="B7",
    title="operator killed: recovery",
    full=Size(),
    small=Size(crashes=1, chains=6, steps=4, waiting=3),
    run=run,
    seconds=lambda size: 30 + size.waiting / 20 + size.crashes * (15 + size.chains * size.steps / 20),
)
