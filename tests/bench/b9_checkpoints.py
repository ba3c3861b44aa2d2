"""B9: how long an agent waits for a checkpoint to be durable: SDK, gateway, Postgres, and back."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from perdure_agent import Agent, Environment, connect
from tests.bench.chains import Chains, PodSeen
from tests.bench.figures import Result
from tests.bench.load import apply_all, waiting_steps
from tests.bench.options import Options
from tests.bench.rig import Rig

KIB = 1024
SIZES = (1 * KIB, 32 * KIB, 256 * KIB)
WRITERS = (1, 16)


async def run(rig: Rig, options: Options) -> Result:
    """Agents of pods that never start: their attempts are open, and we write in their name."""
    result = Result(
        scenario="B9",
        title="checkpoints through SDK and gateway",
        parameters={
            "sizes": list(SIZES),
            "writers": list(WRITERS),
            "checkpoints": options.checkpoints,
            "content": "random bytes, which do not compress",
        },
    )
    count = max(WRITERS)
    async with rig.operator(), rig.gateway() as (gateway, url), rig.namespace("b9") as namespace:
        async with Chains(rig.api, namespace) as seen:
            await apply_all(rig.kube, namespace, [waiting_steps("writers", steps=count)])
            if not await seen.pods_created(count, within=options.deadline(count)):
                result.faults.append(f"only {len(seen.pods)} of {count} pods were made")
                return result
            pods = list(seen.pods.items())
        async with AsyncExitStack() as stack:
            agents = [
                await stack.enter_async_context(
                    connect(await _environment(rig, url, namespace, uid=uid, pod=pod))
                )
                for uid, pod in pods
            ]
            for agent in agents:
                await agent.checkpoint(b"warm")
            for size in SIZES:
                for writers in WRITERS:
                    await _write(rig, result, agents[:writers], size, options.checkpoints)
    if gateway.pids:
        result.faults.append("the gateway did not stop")
    return result


async def _write(rig: Rig, result: Result, agents: list[Agent], size: int, count: int) -> None:
    taken: list[float] = []
    data = os.urandom(size)
    each = count // len(agents) + 1

    async def work(agent: Agent) -> None:
        expected = await agent.checkpoint(data) + 1
        for number in range(each):
            begun = time.perf_counter()
            sequence = await agent.checkpoint(data)
            taken.append(time.perf_counter() - begun)
            if sequence != expected + number:
                result.faults.append(f"checkpoint {sequence} came instead of {expected + number}")

    meter = rig.meter()
    meter.start()
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(work(agent))
    seconds = time.perf_counter() - begun
    used = meter.stop()
    label = f"{size // KIB} KB, {len(agents)} at once"
    budget = "p50 must ≤ 1.5, stretch ≤ 0.8" if size == KIB and len(agents) == 1 else ""
    result.add_samples(label, taken, budget=budget)
    written = len(taken) + len(agents)
    result.add(f"{label}: rate", written / seconds, "/s", samples=written)
    result.add(f"{label}: gateway", used["gateway"] / written, "CPU-ms each", samples=written)
    result.details[label] = {"cpu_ms_each": {name: round(value / written, 3) for name, value in used.items()}}
    restored = await agents[0].restore()
    if restored is None or restored.data != data:
        result.faults.append(f"{label}: what was restored is not what was written last")


async def _environment(rig: Rig, url: str, namespace: str, *, uid: str, pod: PodSeen) -> Environment:
    """What the agent in that pod would find around it."""
    request: dict[str, Any] = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": ["perdure"],
            "expirationSeconds": 3600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": uid},
        },
    }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    folder = Path(rig.directory) / "agents" / pod.name
    folder.mkdir(parents=True)
    (folder / "token").write_text((await rig.kube.raw_post(path, request))["status"]["token"])
    (folder / "input.json").write_text("{}")
    return Environment(
        gateway_url=url,
        namespace=namespace,
        workflow=pod.workflow,
        task=pod.name.rpartition("-")[0],
        step=pod.step,
        token_file=folder / "token",
        input_file=folder / "input.json",
        termination_log=folder / "termination-log",
    )
