"""B6: what many runs keep in memory, and what they cost while nothing happens."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

from tests.bench import budgets, history
from tests.bench.chains import Chains
from tests.bench.cost import measured
from tests.bench.figures import Result
from tests.bench.load import apply_all, patience, slow_chain
from tests.bench.processes import memory_mib
from tests.bench.rig import Rig
from tests.bench.say import duration, reporting, say
from tests.bench.scenario import Scenario

_DATABASE = re.compile(r"^apiserver_storage_size_bytes\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Finished runs, running ones, and the steps of each.
    finished: int = 10_000
    running: int = 1000
    steps: int = 10
    #: Seconds of rest that are measured, after the seconds to come to rest.
    idle: int = 600
    settle: int = 30


async def run(rig: Rig, size: Size, result: Result) -> None:
    """History first, then an operator that starts with it, then running ones, then rest."""
    server = rig.pid_of("kube-apiserver")
    before = memory_mib(server)["rss"]
    async with rig.namespace("b6", keep=True) as namespace:
        template = await history.ran_once(rig, namespace, steps=size.steps)
        names = [history.copy_name(number) for number in range(size.finished)]
        await history.repeat(rig, template, names, pods=history.MOST_PODS)
        async with rig.operator() as operator, Chains(rig.api, namespace) as seen:
            names = [f"held-{number:05d}" for number in range(size.running)]
            async with reporting(lambda: f"{len(seen.pods)} of {size.running} running"):
                manifests = [slow_chain(name, steps=size.steps, how="hang") for name in names]
                await apply_all(rig.kube, namespace, manifests)
                if not await seen.all_in("Running", names, within=patience(size.running)):
                    result.faults.append(f"not all runs run; the operator's log ends:\n{operator.tail()}")
                    return
            say(f"now nothing for {duration(size.settle + size.idle)}")
            await asyncio.sleep(size.settle)
            async with measured(rig) as cost:
                begun = time.monotonic()
                await asyncio.sleep(size.idle)
                seconds = time.monotonic() - begun
            memory = memory_mib(operator.pid)
            if seen.ended() or len(seen.pods) != size.running:
                result.faults.append(f"{seen.ended()} runs ended, {len(seen.pods)} pods were made")
    result.add("operator memory at rest", memory["rss"], "MiB", budget=budgets.OPERATOR_MIB)
    result.add("operator memory, peak", memory["peak"], "MiB", budget=budgets.OPERATOR_MIB)
    grown = memory_mib(server)["rss"] - before
    result.add("API server's memory more than before", grown, "MiB", budget=budgets.APISERVER_MIB)
    if found := _DATABASE.search(await rig.api.metrics()):
        result.add("etcd's database", float(found[1]) / 2**20, "MiB")
    idle = cost.cpu["operator"] / seconds / 10
    result.add("operator CPU at rest", idle, "% of one core", budget=budgets.IDLE_CPU)
    result.add("operator requests at rest", sum(cost.counts.of_operator().values()) / seconds, "/s")
    result.notes.append("Finished runs are copies of one that ran: see tests/bench/history.py.")
    if not rig.as_in_a_pod:
        result.notes.append(
            "The operator was started with a kubeconfig, which costs it 75 MiB more than a pod."
        )


SCENARIO = Scenario(
    name="B6",
    title="memory and idle CPU with many runs",
    full=Size(),
    small=Size(finished=5, running=3, steps=2, idle=2, settle=2),
    run=run,
    seconds=lambda size: (
        40 + size.finished * (1 + size.steps) / 1000 + size.running / 20 + size.idle + size.settle
    ),
)
