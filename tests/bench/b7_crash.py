"""B7: kill -9 of the operator: how soon its successor acts, and whether anything is lost or doubled."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
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
from tests.support.waiting import until

#: Between these shares of all pods having ended the operator is killed.
EARLIEST, LATEST = 0.1, 0.7
#: Seconds for the pods that run to end without it.
_REST = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: How often the operator is killed.
    crashes: int = 100
    #: Of which so many hit the same chains, so that some follow on one another's heels.
    each: int = 4
    #: Chains that are under way at each kill, and their steps.
    chains: int = 20
    steps: int = 10
    #: Further runs that only wait for their pods, for the successor to read.
    waiting: int = 1000


@dataclass(frozen=True, slots=True)
class _Recovery:
    """Seconds from the start of a successor to its first pod, and until every run had gone on."""

    first: float
    caught_up: float


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Apply one load for every few kills, which come at random moments of the load."""
    found: list[_Recovery] = []
    chance = random.Random(7)
    async with (
        rig.operator() as operator,
        rig.namespace("b7", keep=True) as others,
        Chains(rig.api, others) as waiting,
    ):
        names = [f"held-{number:05d}" for number in range(size.waiting)]
        manifests = [slow_chain(name, steps=size.steps, how="hang") for name in names]
        if names:
            await apply_all(rig.kube, others, manifests)
            await waiting.all_in("Running", names, within=patience(size.waiting))
        while len(found) < size.crashes and not result.faults:
            crashes = min(size.each, size.crashes - len(found))
            shares = sorted(chance.uniform(EARLIEST, LATEST) for _ in range(crashes))
            found += await _load(rig, operator, result, size, shares=shares)
            took = ", ".join(f"{each.first:.2f}" for each in found[-crashes:])
            say(f"{len(found)} of {size.crashes} crashes: first action after {took} s")
        if doubled := len(waiting.pods) - size.waiting:
            result.faults.append(f"runs that only waited got {doubled} pods more")
        if result.faults:
            result.faults.append(f"the operator's log ends:\n{operator.tail()}")
            return
    first = [each.first for each in found]
    result.add_runs("exec → first pod created", first, "s", budget=budgets.FIRST_ACTION)
    caught_up = [each.caught_up for each in found]
    result.add_runs("exec → every waiting run went on", caught_up, "s", budget=budgets.CAUGHT_UP)
    result.add("pods made twice, steps lost", 0, "", samples=size.crashes, budget=budgets.NEVER)


async def _load(
    rig: Rig, operator: Service, result: Result, size: Size, *, shares: Sequence[float]
) -> list[_Recovery]:
    """Chains during which the operator is killed whenever such a share of all pods has ended."""
    names = [f"chain-{number:04d}" for number in range(size.chains)]
    steps = size.chains * size.steps
    async with rig.namespace("b7") as namespace, Chains(rig.api, namespace) as seen:
        await apply_all(rig.kube, namespace, [chain(name, steps=size.steps) for name in names])
        found: list[_Recovery] = []
        for share in shares:
            await seen.pods_ended(round(steps * share), within=patience(steps))
            if (recovery := await _crash(operator, seen, names, within=patience(steps))) is None:
                result.faults.append("everything was over when the operator was killed: take more chains")
                return found
            found.append(recovery)
        await seen.all_ended(len(names), within=patience(steps))
        result.faults += seen.faults(names, steps=size.steps)
        result.faults += await faults_of(rig.ledger_url, namespace, runs=len(names), steps=size.steps)
        return found


async def _crash(operator: Service, seen: Chains, names: Sequence[str], *, within: float) -> _Recovery | None:
    """Kill, start, and see every run go on. None if none was left to."""
    await operator.kill()
    # Pods continue to end while no operator runs: the successor has to find their ends.
    await seen.no_pod_runs(within=_REST)
    waiting = [name for name in names if name not in seen.runs or seen.runs[name].ended is None]
    started = await operator.start()

    if not waiting:
        return None

    async def all_went_on() -> list[float] | None:
        times = [at for name in waiting if (at := _went_on(seen, name, started)) is not None]
        return times if len(times) == len(waiting) else None

    times = await until(all_went_on, within=within)
    made = [pod.created for pod in seen.pods.values() if pod.created > started]
    return _Recovery(min(made) - started, max(times) - started) if made else None


def _went_on(seen: Chains, name: str, started: float) -> float | None:
    """When a run that was waiting got its next pod, or its end."""
    made = [pod.created for pod in seen.of(name) if pod.created > started]
    run = seen.runs.get(name)
    return min(made, default=run.ended if run else None)


SCENARIO = Scenario(
    name="B7",
    title="operator killed: recovery",
    full=Size(),
    small=Size(crashes=2, each=2, chains=6, steps=4, waiting=3),
    run=run,
    seconds=lambda size: (
        30
        + size.waiting / 20
        + size.crashes * 6
        + math.ceil(size.crashes / size.each) * (5 + size.chains * size.steps / 20)
    ),
)
