"""B8: two operators: the leader killed, and the leader frozen and thawed again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench import budgets
from tests.bench.chains import Chains, PodSeen
from tests.bench.cluster import SYSTEM
from tests.bench.figures import Result
from tests.bench.load import apply_all, patience, slow_chain
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario
from tests.bench.service import Service
from tests.integration.kills.history import faults_of
from tests.support.waiting import until

#: The Lease of which the budget speaks.
LEASE = {"LEASE_DURATION": "4", "LEASE_RENEW_DEADLINE": "3", "LEASE_RETRY": "0.5"}
#: The duration of each pod, so that some end after the leader was killed.
_POD = "0.5s"
_WITHIN = 120.0
#: The log line of a deposed leader.
_DEPOSED = "no longer leading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: How often the leader is killed, and how often it is frozen.
    kills: int = 10
    freezes: int = 3
    #: Chains under way meanwhile, and their steps.
    chains: int = 20
    steps: int = 10


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Two replicas with a lease of 4 s; after each change the killed replica is started again."""
    first: list[float] = []
    names = ("perdure-operator-0", "perdure-operator-1")
    async with (
        rig.operator(identity=names[0], settings=LEASE) as one,
        rig.operator(identity=names[1], settings=LEASE) as two,
    ):
        replicas = dict(zip(names, (one, two), strict=True))
        for number in range(size.kills + size.freezes):
            frozen = number >= size.kills
            took = await _once(rig, replicas, result, size, frozen=frozen)
            if took is None:
                result.faults.append("the logs end:\n" + "\n".join(each.tail() for each in replicas.values()))
                return
            say(f"{'frozen' if frozen else 'killed'} {number + 1}: first action after {took:.2f} s")
            if not frozen:
                first.append(took)
    result.add_runs("leader killed → the other's first pod created", first, "s", budget=budgets.FAILOVER)
    result.add("actions done twice", 0, "", samples=size.kills + size.freezes, budget=budgets.NEVER)


async def _once(
    rig: Rig, replicas: Mapping[str, Service], result: Result, size: Size, *, frozen: bool
) -> float | None:
    names = [f"chain-{number:04d}" for number in range(size.chains)]
    steps = size.chains * size.steps
    async with rig.namespace("b8") as namespace, Chains(rig.api, namespace) as seen:
        await apply_all(rig.kube, namespace, [slow_chain(name, steps=size.steps, how=_POD) for name in names])
        await seen.pods_ended(max(1, steps // 4), within=patience(steps))
        holder = await until(lambda: _holder(rig, replicas), within=_WITHIN)
        leader = replicas[holder]
        if frozen:
            before = leader.text().count(_DEPOSED)
            at = leader.freeze()
            try:
                await seen.all_ended(len(names), within=patience(steps) + _WITHIN)
            finally:
                leader.thaw()
            made = len(seen.pods)
            await until(lambda: leader.text().count(_DEPOSED) > before, within=_WITHIN)
        else:
            at = await leader.kill()
            await seen.all_ended(len(names), within=patience(steps) + _WITHIN)
            made = len(seen.pods)
            await leader.start()
            await leader.ready(within=_WITHIN)
        faults = seen.faults(names, steps=size.steps)
        faults += await faults_of(rig.ledger_url, namespace, runs=len(names), steps=size.steps)
        if len(seen.pods) != made:
            faults.append(f"the deposed leader made {len(seen.pods) - made} pods")
        if faults:
            result.faults += faults[:20]
            return None
        acted = first_action(list(seen.pods.values()), after=at)
        if acted is None:
            result.faults.append("everything was over when the leader went: take more steps")
            return None
        return acted - at


def first_action(pods: Sequence[PodSeen], *, after: float) -> float | None:
    """When the first pod was created for which the reason, its predecessor's end, came later than that.

    One whose reason is older may have been on its way already when the leader went.
    """
    ended = {(pod.workflow, pod.step): pod.ended for pod in pods}
    order: dict[str, list[PodSeen]] = {}
    for pod in pods:
        order.setdefault(pod.workflow, []).append(pod)
    found = []
    for chain in order.values():
        chain.sort(key=lambda pod: pod.step)
        for before, pod in itertools.pairwise(chain):
            reason = ended[before.workflow, before.step]
            if reason is not None and reason > after:
                found.append(pod.created)
    return min(found, default=None)


async def _holder(rig: Rig, replicas: Mapping[str, Service]) -> str:
    """The leader; '' if neither replica leads."""
    leases, _ = await rig.kube.list("Lease", namespace=SYSTEM)
    holder = next((str(lease["spec"].get("holderIdentity") or "") for lease in leases), "")
    return holder if holder in replicas else ""


SCENARIO = Scenario(
    name="B8",
    title="leader killed or frozen: failover",
    full=Size(),
    small=Size(kills=1, freezes=1, chains=4, steps=8),
    run=run,
    seconds=lambda size: 20 + (size.kills + size.freezes) * (15 + size.chains * size.steps / 15),
)
