"""`kill -9` of the operator at random moments, over and over, under many runs on simulated nodes.

`make test-kills KILLS=100` is the budget's size; by default it is small enough for every day. Nothing may be
lost and nothing done twice. How soon each successor acts is printed, not asserted.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from datetime import UTC, datetime
from typing import NamedTuple

from tests.bench.chains import Chains
from tests.bench.load import apply_all
from tests.bench.rig import Rig, booted
from tests.bench.service import Service
from tests.integration.kills.history import faults_of, unpublished
from tests.integration.kills.load import slow_chain

KILLS = int(os.environ.get("KILLS", "5"))
RUNS = int(os.environ.get("RUNS", "20" if KILLS < 50 else "100"))
STEPS = int(os.environ.get("STEPS", "5" if KILLS < 50 else "10"))
SEED = int(os.environ.get("SEED", str(random.randrange(10**6))))
#: Seconds that one life of the operator takes on an idle machine, its start included: the load is to outlast
#: all of them. Where they take longer, more runs are applied as the first ones end.
LIFE = 3.0
#: Share of the lives that end while the operator is still starting.
EARLY = 0.2
#: Seconds for an operator to do something, and for all that is left in the end.
DEADLINE = 120.0


class Act(NamedTuple):
    """The first thing that an operator did."""

    #: Seconds that it took.
    seconds: float
    #: Seconds that the machine took for a fixed piece of work, right after.
    pace: float
    #: The start of the operator, by the wall clock, and its log until then.
    started: datetime
    log: str


async def test_the_operator_is_killed_at_random_moments() -> None:
    chance = random.Random(SEED)
    print(f"SEED={SEED}: {KILLS} kills, {RUNS} runs of {STEPS} steps")
    mean = KILLS * LIFE / STEPS
    names: list[str] = []
    acted: list[Act] = []
    async with booted() as rig, rig.namespace("kills") as namespace:
        async with Chains(rig.api, namespace) as seen, rig.operator() as operator:
            for number in range(KILLS):
                missing = RUNS - (len(names) - seen.ended())
                if missing > RUNS // 2:
                    more = [f"chain-{len(names) + extra:03d}" for extra in range(missing)]
                    chains = [slow_chain(name, steps=STEPS, mean=mean, chance=chance) for name in more]
                    await apply_all(rig.kube, namespace, chains)
                    names += more
                if number == 0:
                    assert await seen.pods_created(RUNS // 2, within=DEADLINE), operator.tail()
                took = await _kill_and_start(seen, operator, chance)
                if took is not None:
                    acted.append(took)
            assert await seen.all_ended(len(names), within=DEADLINE + 2 * mean * STEPS), operator.tail()
            faults = seen.faults(names, steps=STEPS)
        faults += await faults_of(rig.ledger_url, namespace, runs=len(names), steps=STEPS)
        assert faults == []
        assert await _published(rig, namespace) == set()
    print(f"{KILLS} kills, {len(names)} runs: nothing lost, nothing done twice")
    _report(acted)


async def _kill_and_start(seen: Chains, operator: Service, chance: random.Random) -> Act | None:
    """Kill the operator and start a successor.

    Returns the time until the successor creates its first pod, from its start or from the moment at which the
    pod became due, whichever is later; None if the successor is to be killed before.
    """
    await asyncio.sleep(chance.choice((0.0, chance.uniform(0, 0.3), chance.uniform(0, 1.5))))
    await operator.kill()
    silent = len(operator.text())
    wall, started = datetime.now(UTC), await operator.start()
    if chance.random() < EARLY:
        await asyncio.sleep(chance.uniform(0, 1.5))
        return None
    # The next pod that ends gives the operator something to do, if none ended during the restart.
    assert await seen.pods_created(len(seen.pods) + 1, within=DEADLINE), operator.tail()
    first = min((pod for pod in seen.pods.values() if pod.created > started), key=lambda pod: pod.created)
    took = first.created - max(started, seen.due(first))
    return Act(took, _pace(), wall, operator.text()[silent:])


def _pace() -> float:
    began = time.perf_counter()
    sum(range(2_000_000))
    return time.perf_counter() - began


async def _published(rig: Rig, namespace: str) -> set[str]:
    return await unpublished(rig.ledger_url, rig.nats.url, namespace)


def _report(acted: list[Act]) -> None:
    if not acted:
        return  # each was killed before it could act
    slowest = max(acted)
    median = statistics.median(act.seconds for act in acted)
    print(
        f"start → first pod: p50 {median:.2f} s, max {slowest.seconds:.2f} s"
        f" of {len(acted)}; budget: must 2.5 s, stretch 1.5 s"
    )
    pace = slowest.pace / statistics.median(act.pace for act in acted)
    print(f"the slowest, at {pace:.1f} times the machine's median for the same work,", end=" ")
    print(f"started {slowest.started:%H:%M:%S.%f}:\n{slowest.log}")
