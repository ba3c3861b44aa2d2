"""B0: the limits of the rig without an operator, with which all other figures are to be compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from perdure.api import API_VERSION
from tests.bench import anchors, ceiling
from tests.bench.figures import Result
from tests.bench.load import patience
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario
from tests.bench.watch import Watch

CONNECTIONS = (1, 8, 32)
_TASKS = "/apis/perdure.dev/v1alpha1/namespaces/{}/agenttasks"
#: A scheduler that does not exist: such a pod is only written.
_NO_SCHEDULER = "none"
#: A pod of agents as large as they are in practice, with mounts and environment.
_POD_BYTES = 3000
#: Share of the rate found at most connections that the watch is measured under.
_LOAD = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Requests of each sort.
    requests: int = 1000


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Single pieces of work, requests one at a time and many at once, the watch, then pods to their end."""
    count = size.requests
    await anchors.measure(rig, result, count=count)
    rate = 0.0
    for connections in CONNECTIONS:
        say(f"{count} requests of each sort, {connections} at once")
        async with rig.namespace("b0") as namespace:
            rate = await _writes(rig, result, namespace, connections, count)
    for share in (0.0, _LOAD):
        say(f"watch delivery at {share:.0%} of {rate:.0f} writes/s")
        async with rig.namespace("b0") as namespace:
            delays = await _delivery(rig, namespace, count=count, rate=share * rate)
        result.add_samples(f"write begun → seen by a watch, at {share:.0%} load", delays)
    meter = rig.meter()
    meter.start()
    found = await ceiling.measure(rig, count, within=patience(count))
    used = meter.stop()
    of_server = (used["kube-apiserver"] + used["etcd"]) / count
    result.add("rig's ceiling: API server and etcd", of_server, "CPU-ms each", samples=count)
    result.add("rig's ceiling: pods from creation to their end", found.pods_per_second, "pods/s")
    result.add_samples("rig's ceiling: one pod's life", found.lives)


async def _writes(rig: Rig, result: Result, namespace: str, connections: int, count: int) -> float:
    """Returns status patches per second."""
    tasks, pods = _TASKS.format(namespace), ceiling.PODS.format(namespace)
    padding = {"padding": "x" * max(0, _POD_BYTES - len(orjson.dumps(ceiling.pod(namespace, 0))))}

    async def create_task(number: int) -> None:
        await rig.api.send("POST", tasks, orjson.dumps(_task(number)))

    async def patch_task(number: int) -> None:
        await _patch(rig, f"{tasks}/t{number}", {"phase": "Running"})

    async def delete_task(number: int) -> None:
        await rig.api.send("DELETE", f"{tasks}/t{number}", b"")

    async def create_pod(number: int) -> None:
        body = ceiling.pod(namespace, number)
        body["spec"]["schedulerName"] = _NO_SCHEDULER
        body["metadata"]["annotations"] = {**body["metadata"].get("annotations", {}), **padding}
        await rig.api.send("POST", pods, orjson.dumps(body))

    async def patch_pod(number: int) -> None:
        await _patch(rig, f"{pods}/calibration-{number}-1", {"message": "patched"})

    async def delete_pod(number: int) -> None:
        options = orjson.dumps({"gracePeriodSeconds": 0})
        await rig.api.send("DELETE", f"{pods}/calibration-{number}-1", options)

    calls: tuple[tuple[str, Callable[[int], Awaitable[None]]], ...] = (
        ("custom resource create", create_task),
        ("custom resource patch status", patch_task),
        ("custom resource delete", delete_task),
        ("pod create", create_pod),
        ("pod patch status", patch_pod),
        ("pod delete", delete_pod),
    )
    rates = {}
    for name, call in calls:
        meter = rig.meter()
        meter.start()
        taken, seconds = await ceiling.timed(call, count, connections)
        used = meter.stop()
        of_server = (used["kube-apiserver"] + used["etcd"]) / count
        label = f"{name}, {connections} at once"
        result.add_samples(label, taken)
        result.add(f"{label}: rate", count / seconds, "/s", samples=count)
        result.add(f"{label}: API server and etcd", of_server, "CPU-ms each", samples=count)
        rates[name] = count / seconds
    return rates["custom resource patch status"]


async def _delivery(rig: Rig, namespace: str, *, count: int, rate: float) -> list[float]:
    """Seconds from sending a patch to its event at a watch, with `rate` other patches a second."""
    path = _TASKS.format(namespace)
    for number in range(2):
        await rig.api.send("POST", path, orjson.dumps(_task(number)))
    arrived: dict[str, float] = {}

    def note(kind: str, task: dict[str, Any], at: float) -> None:
        if task["metadata"]["name"] == "t0":
            arrived[(task.get("status") or {}).get("reason", "")] = at

    async with Watch(rig.api, path, note) as watch, _Load(rig, f"{path}/t1", rate):
        delays = []
        for number in range(max(1, count // 10)):
            mark = f"m{number}"
            begun = time.monotonic()
            await _patch(rig, f"{path}/t0", {"reason": mark})
            if not await watch.until(lambda mark=mark: mark in arrived, within=60):  # type: ignore[misc]
                raise TimeoutError("an event did not come")
            delays.append(arrived[mark] - begun)
    return delays


class _Load:
    """So many patches a second, as far as the server takes them."""

    def __init__(self, rig: Rig, path: str, rate: float) -> None:
        self._rig, self._path, self._rate = rig, path, rate
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        workers = 8
        if self._rate > 0:
            self._tasks = [
                asyncio.create_task(self._work(number, workers / self._rate)) for number in range(workers)
            ]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _work(self, number: int, pause: float) -> None:
        due = time.monotonic()
        while True:
            due += pause
            await _patch(self._rig, self._path, {"reason": f"l{number}-{due}"})
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def _task(number: int) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "AgentTask",
        "metadata": {"name": f"t{number}"},
        "spec": {"agent": {"image": "bench/instant:1"}},
    }


async def _patch(rig: Rig, path: str, status: dict[str, Any]) -> None:
    await rig.api.send(
        "PATCH",
        f"{path}/status",
        orjson.dumps({"status": status}),
        kind="application/merge-patch+json",
    )


SCENARIO = Scenario(
    name="B0",
    title="calibration of the rig",
    full=Size(),
    small=Size(requests=20),
    run=run,
    seconds=lambda size: 20 + size.requests * 0.06,
)
