"""B0: what the rig itself can do with no operator: everything else is to be read beside it."""

from __future__ import annotations

import orjson

from perdure.api import API_VERSION
from tests.bench import ceiling
from tests.bench.figures import Result
from tests.bench.options import Options
from tests.bench.rig import Rig

CONNECTIONS = (1, 32)
_TASKS = "/apis/perdure.dev/v1alpha1/namespaces/{}/agenttasks"
#: Nobody schedules for it: such a pod is only written.
_NO_SCHEDULER = "none"


async def run(rig: Rig, options: Options) -> Result:
    """Requests one at a time and many at once, then pods from creation to their end."""
    count = options.calibration
    result = Result(scenario="B0", title="calibration of the rig", parameters={"requests": count})
    for connections in CONNECTIONS:
        async with rig.namespace("b0") as namespace:
            await _writes(rig, result, namespace, connections, count)
    found = await ceiling.measure(rig, count, within=options.deadline(count))
    result.add("rig's ceiling: pods from creation to their end", found.pods_per_second, "pods/s")
    result.add_samples("rig's ceiling: one pod's life", found.lives)
    return result


async def _writes(rig: Rig, result: Result, namespace: str, connections: int, count: int) -> None:
    tasks, pods = _TASKS.format(namespace), ceiling.PODS.format(namespace)
    status = orjson.dumps([{"op": "add", "path": "/status", "value": {"phase": "Running"}}])
    task = {"apiVersion": API_VERSION, "kind": "AgentTask", "spec": {"agent": {"image": "bench/instant:1"}}}

    async def create_task(number: int) -> None:
        body = {**task, "metadata": {"name": f"t{number}"}}
        await rig.api.send("POST", tasks, orjson.dumps(body))

    async def patch_task(number: int) -> None:
        await rig.api.send("PATCH", f"{tasks}/t{number}/status", status, kind="application/json-patch+json")

    async def create_pod(number: int) -> None:
        body = ceiling.pod(namespace, number)
        body["spec"]["schedulerName"] = _NO_SCHEDULER
        await rig.api.send("POST", pods, orjson.dumps(body))

    for name, call in (
        ("custom resource create", create_task),
        ("custom resource patch status", patch_task),
        ("pod create", create_pod),
    ):
        meter = rig.meter()
        meter.start()
        taken, seconds = await ceiling.timed(call, count, connections)
        used = meter.stop()
        of_server = (used["kube-apiserver"] + used["etcd"]) / count
        label = f"{name}, {connections} at once"
        result.add_samples(label, taken)
        result.add(f"{label}: rate", count / seconds, "/s", samples=count)
        result.add(f"{label}: API server and etcd", of_server, "CPU-ms each", samples=count)
