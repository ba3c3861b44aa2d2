"""B10: from a checkpoint to going on from it: reading one, all of them, and a pod's replacement."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial

from perdure.control.leadership.loading import pages
from perdure.ledger import Ledger
from perdure_agent import Environment, connect
from tests.bench import budgets, peers
from tests.bench.agents import environment_of, save_to_ledger, session_of, start_held
from tests.bench.chains import Chains, PodSeen
from tests.bench.figures import Result
from tests.bench.load import patience
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario

KIB = 1024
#: Bytes of a checkpoint; the peers save and load the same sizes.
SIZES = (1 * KIB, 32 * KIB, 256 * KIB)
_P99 = {KIB: budgets.RESTORE_P99, 256 * KIB: budgets.LARGE_RESTORE_P99}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Times that a checkpoint of each size is read.
    loads: int = 1000
    #: Live runs that are read at once.
    bulk: int = 1000
    #: Pods that are killed, each after it saved a checkpoint of its own.
    kills: int = 1000
    #: Checkpoints of each size that we save, and steps that the peers save; 0 for none, and no peers.
    peer_steps: int = 1000


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Perdure first; then the peers, while no process of Perdure runs."""
    async with (
        rig.operator(),
        rig.gateway() as (_, url),
        rig.namespace("b10", keep=True) as namespace,
        Ledger(rig.ledger_url) as ledger,
        Chains(rig.api, namespace) as seen,
    ):
        # The first pod is not killed: it is the one that reads.
        say(f"{max(size.kills + 1, size.bulk)} runs, each with a pod that holds")
        pods = await start_held(rig, namespace, seen, runs=max(size.kills + 1, size.bulk), tasks=1)
        (reader, pod), *others = pods.items()
        environment = await environment_of(rig, url, namespace, uid=reader, pod=pod)
        await _loads(rig, ledger, namespace, reader, environment, size, result)
        await _bulk(ledger, size, result)
        killing = _Killing(rig, seen, namespace, url)
        for number, (uid, pod) in enumerate(others[: size.kills]):
            if number % 100 == 0:
                say(f"pod {number + 1} of {size.kills} to be killed")
            await killing.one(uid, pod)
        killing.into(result)
    if size.peer_steps and not result.faults:
        await peers.compare(rig, result, steps=size.peer_steps)


async def _loads(
    rig: Rig,
    ledger: Ledger,
    namespace: str,
    uid: str,
    environment: Environment,
    size: Size,
    result: Result,
) -> None:
    session = await session_of(ledger, namespace, uid)
    async with connect(environment) as agent:
        for bytes_ in SIZES:
            data = os.urandom(bytes_)
            label = f"save, {bytes_ // KIB} KB"
            for saved, save in (
                (f"{label}: ledger", partial(save_to_ledger, ledger, session)),
                (f"{label}: SDK and gateway", agent.checkpoint),
            ):
                through = []
                for _ in range(size.peer_steps):
                    begun = time.perf_counter()
                    await save(data)
                    through.append(time.perf_counter() - begun)
                result.add_samples(saved, through)
            sequence = await agent.checkpoint(data)
            through_http, alone = [], []
            for _ in range(size.loads):
                begun = time.perf_counter()
                restored = await agent.restore()
                through_http.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                found = await ledger.checkpoint(session, sequence)
                alone.append(time.perf_counter() - begun)
                if restored is None or found is None or not restored.data == found.data == data:
                    result.faults.append(f"{bytes_ // KIB} KB: what was read is not what was saved")
                    return
            label = f"load the latest, {bytes_ // KIB} KB"
            result.add_samples(f"{label}: ledger", alone, p99=_P99.get(bytes_))
            result.add_samples(f"{label}: SDK and gateway", through_http)


async def _bulk(ledger: Ledger, size: Size, result: Result) -> None:
    taken = []
    for _ in range(10):
        begun = time.perf_counter()
        found = 0
        for entries in pages(await ledger.live_index()):
            page = await ledger.load_page([entry.uid for entry in entries])
            found += len(page.states)
        taken.append((time.perf_counter() - begun) * 1000)
        if found < size.bulk:
            result.faults.append(f"{found} of {size.bulk} live runs were read")
    result.add_runs(
        f"all {found} live runs, as an operator that starts reads them",
        taken,
        "ms",
        budget=budgets.BULK_RESTORE,
    )


class _Killing:
    """Kills pods one at a time, and sees that each replacement goes on from what was saved last."""

    def __init__(self, rig: Rig, seen: Chains, namespace: str, url: str) -> None:
        self._rig, self._seen, self._namespace, self._url = rig, seen, namespace, url
        self._times: list[float] = []
        self._restored = 0
        self._faults: list[str] = []

    async def one(self, uid: str, pod: PodSeen) -> None:
        data = os.urandom(KIB)
        environment = await self._environment(uid, pod)
        async with connect(environment) as agent:
            await agent.checkpoint(data)
        # No grace: what a pod is like whose node went.
        await self._rig.kube.delete("Pod", self._namespace, pod.name, uid=uid, grace_seconds=0)

        def replacement() -> tuple[str, PodSeen] | None:
            return next(
                (
                    (other, found)
                    for other, found in reversed(self._seen.pods.items())
                    if found.workflow == pod.workflow and found.attempt == 2
                ),
                None,
            )

        def runs() -> bool:
            found = replacement()
            return found is not None and found[1].running is not None

        if not await self._seen.watch.until(runs, within=patience(1)):
            self._faults.append(f"{pod.name} was killed and not replaced")
            return
        found = replacement()
        assert found is not None
        assert pod.gone is not None
        self._times.append(found[1].created - pod.gone)
        async with connect(await self._environment(*found)) as agent:
            saved = await agent.restore()
        if saved is None or saved.data != data:
            self._faults.append(f"{found[1].name} did not get what {pod.name} had saved")
        else:
            self._restored += 1

    def into(self, result: Result) -> None:
        result.faults += self._faults
        result.add_samples(
            "pod gone → its replacement created",
            self._times,
            p50=budgets.REPLACED_P50,
            p99=budgets.REPLACED_P99,
        )
        result.add("replacements that got exactly what was saved last", self._restored, "")

    async def _environment(self, uid: str, pod: PodSeen) -> Environment:
        return await environment_of(self._rig, self._url, self._namespace, uid=uid, pod=pod)


SCENARIO = Scenario(
    name="B10",
    title="restore, and what others take for the same",
    full=Size(),
    small=Size(loads=5, bulk=3, kills=3, peer_steps=20),
    run=run,
    seconds=lambda size: (
        60 + max(size.kills, size.bulk) / 20 + size.kills * 0.2 + size.loads * 0.01 + size.peer_steps * 0.05
    ),
)
