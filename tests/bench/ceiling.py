"""The rig's own ceiling: pods made by a trivial creator. No operator can be faster on the same rig."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from perdure.api import API_VERSION
from perdure.domain.names import LABEL_MANAGED_BY, LABEL_STEP, LABEL_WORKFLOW, MANAGED_BY
from perdure.kube.pods import PodEnvironment, build_pod
from tests.bench.chains import Chains
from tests.bench.rig import Rig

PODS = "/api/v1/namespaces/{}/pods"
#: Pods created at once.
CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The ceiling measured just now: a busy machine has another one a minute later."""

    pods_per_second: float
    #: Seconds from each pod's creation to its end.
    lives: list[float]


async def measure(rig: Rig, pods: int, *, within: float) -> Ceiling:
    """Create so many pods as fast as can be, and wait until all have ended. Raises TimeoutError."""
    async with rig.namespace("ceiling") as namespace, Chains(rig.api, namespace) as seen:
        path = PODS.format(namespace)

        async def create(number: int) -> None:
            await rig.api.send("POST", path, orjson.dumps(pod(namespace, number)))

        begun = time.monotonic()
        await timed(create, pods, CONNECTIONS)
        if not await seen.pods_ended(pods, within=within):
            raise TimeoutError(f"the simulated nodes did not end {pods} pods in time")
        lives = [(each.created, each.ended) for each in seen.pods.values() if each.ended is not None]
        last = max(ended for _, ended in lives)
        return Ceiling(pods / (last - begun), [ended - created for created, ended in lives])


def pod(namespace: str, number: int) -> dict[str, Any]:
    """A pod as the operator creates it; without an owner, as there is none."""
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_WORKFLOW: "calibration", LABEL_STEP: f"s{number}"}
    made = build_pod(
        task_name=f"calibration-{number}",
        pod_name=f"calibration-{number}-1",
        namespace=namespace,
        owner={"apiVersion": API_VERSION, "kind": "AgentTask", "name": "none", "uid": "none"},
        labels=labels,
        agent={"image": "bench/instant:1"},
        input=b"{}",
        env=PodEnvironment(
            gateway_url="http://gateway:8080", workflow="calibration", step=f"s{number}", attempt=1
        ),
        audience="perdure",
    )
    del made["metadata"]["ownerReferences"]
    return made


async def timed(
    call: Callable[[int], Awaitable[object]], count: int, connections: int
) -> tuple[list[float], float]:
    """Seconds of each call, and of all together."""
    waiting = list(range(count))
    taken: list[float] = []

    async def work() -> None:
        while waiting:
            number = waiting.pop()
            begun = time.perf_counter()
            await call(number)
            taken.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    return taken, time.perf_counter() - begun
