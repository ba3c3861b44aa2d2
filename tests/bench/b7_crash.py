"""B7: kill -9 of the operator: how soon its successor acts, and whether anything is lost or doubled."""

from __future__ import annotations

import random
import time

import asyncpg

from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.load import apply_all, chain
from tests.bench.options import Options
from tests.bench.rig import Rig
from tests.bench.service import Service

#: Between these shares of all pods having ended the operator is killed.
EARLIEST, LATEST = 0.1, 0.7
#: Seconds for the pods that run to end without it.
_REST = 10.0


async def run(rig: Rig, options: Options) -> Result:
    """The same load several times, the operator killed once in each."""
    result = Result(
        scenario="B7",
        title="operator killed: recovery",
        parameters={
            "chains": options.crash_chains,
            "steps": options.steps,
            "crashes": options.crashes,
        },
    )
    first: list[float] = []
    caught_up: list[float] = []
    chance = random.Random(7)
    async with rig.operator() as operator:
        for number in range(options.crashes):
            share = chance.uniform(EARLIEST, LATEST)
            times = await _once(rig, operator, result, options, share=share)
            if times is None:
                result.faults.append(f"crash {number + 1}; the operator's log ends:\n{operator.tail()}")
                return result
            first.append(times[0])
            caught_up.append(times[1])
    result.add_runs("exec → first pod created", first, "s", budget="must ≤ 2.5, stretch ≤ 1.5")
    result.add_runs("exec → every waiting run went on", caught_up, "s")
    result.add("pods made twice, steps lost", 0, "", samples=options.crashes, budget="0")
    return result


async def _once(
    rig: Rig, operator: Service, result: Result, options: Options, *, share: float
) -> tuple[float, float] | None:
    names = [f"chain-{number:04d}" for number in range(options.crash_chains)]
    steps = options.crash_chains * options.steps
    async with rig.namespace("b7") as namespace, Chains(rig.api, namespace) as seen:
        await apply_all(rig.kube, namespace, [chain(name, steps=options.steps) for name in names])
        await seen.pods_ended(round(steps * share), within=options.deadline(steps))
        await operator.kill()
        # Pods go on to end while nobody looks: what they leave is what the successor has to find.
        await seen.no_pod_runs(within=_REST)
        waiting = [name for name in names if name not in seen.runs or seen.runs[name].ended is None]
        started = await operator.start()
        await seen.all_ended(len(names), within=options.deadline(steps))
        faults = seen.faults(names, steps=options.steps)
        faults += await _ledger_faults(rig, namespace, steps=options.steps, runs=len(names))
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


async def _ledger_faults(rig: Rig, namespace: str, *, steps: int, runs: int) -> list[str]:
    """What the ledger has of these runs that it should not have."""
    connection = await asyncpg.connect(rig.ledger_url)
    try:
        rows = await connection.fetch(_HISTORY, namespace)
    finally:
        await connection.close()
    faults = [] if len(rows) == runs else [f"the ledger has {len(rows)} of {runs} runs"]
    for row in rows:
        if row["phase"] != "Succeeded":
            faults.append(f"{row['name']} is {row['phase']} in the ledger")
        if row["events"] != row["last_sequence"] or row["newest"] != row["last_sequence"]:
            faults.append(f"{row['name']}: {row['events']} events, numbered up to {row['newest']}")
        if row["succeeded"] != steps or row["tasks_succeeded"] != steps:
            faults.append(f"{row['name']}: {row['succeeded']} times task.succeeded for {steps} steps")
        if row["attempts"] != steps:
            faults.append(f"{row['name']}: {row['attempts']} attempts for {steps} steps")
    return faults


_HISTORY = """
select w.name, w.phase, w.last_sequence,
    (select count(*) from perdure.event e where e.workflow_uid = w.uid) as events,
    (select max(sequence) from perdure.event e where e.workflow_uid = w.uid) as newest,
    (select count(*) from perdure.event e where e.workflow_uid = w.uid and e.type = 'task.succeeded')
        as succeeded,
    (select count(distinct e.task) from perdure.event e
        where e.workflow_uid = w.uid and e.type = 'task.succeeded') as tasks_succeeded,
    (select count(*) from perdure.attempt a where a.workflow_uid = w.uid) as attempts
from perdure.workflow w
where w.namespace = $1
"""
