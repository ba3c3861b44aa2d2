"""A `forEach` of thousands of items, from its first task to its end, against the real control plane.

`make test-scale ITEMS=10000` runs the large one; without `PERDURE_SCALE_ITEMS` a small one asks the same
questions in less than a minute.
"""

from __future__ import annotations

import json
import os
from typing import Any

from perdure.control.runs.cleanup import MAX_ENDED_TASKS
from perdure.domain.payloads import value_of
from perdure.domain.records import RunState, TaskKey
from perdure.kube.client import KubeClient
from perdure.kube.errors import ApiError
from perdure.ledger import Ledger
from tests.bench.processes import memory_mib
from tests.bench.rig import booted
from tests.scale.fan_out import NAME, Bystander, fan_out
from tests.support.waiting import until

ITEMS = int(os.environ.get("PERDURE_SCALE_ITEMS", "300"))
#: Tasks at once; 0 for no limit, which is the harder case.
PARALLELISM = int(os.environ.get("PERDURE_SCALE_PARALLELISM", "0"))

STATUS_BYTES = 32 * 1024
MEMORY_MIB = 250.0
#: Outside a pod the library is loaded that reads kubeconfigs.
KUBECONFIG_MIB = 75.0
NAMESPACE = "scale"


async def test_a_wide_fan_out_keeps_sizes_bounded_and_loses_nothing() -> None:
    async with booted() as rig:
        await _namespace(rig.kube)
        async with rig.operator() as operator, Bystander(rig.api, NAMESPACE) as seen:
            run = await rig.kube.create(
                "Workflow", NAMESPACE, fan_out(ITEMS, parallelism=PARALLELISM or None)
            )
            # Far more than it takes, even on a machine that has much else to do.
            ended = await seen.run_ended(within=300 + ITEMS)
            assert ended, f"it does not end: {seen.status}\n{operator.tail()}"
            assert seen.status["phase"] == "Succeeded", seen.status
            # The status of the run is final only once its surplus objects were deleted.
            assert await seen.tasks_left(MAX_ENDED_TASKS, within=60), f"{len(seen.tasks)} are left"
            peak = memory_mib(operator.pid)["peak"]
        async with Ledger(rig.ledger_url, pool_size=2) as ledger:
            state = await ledger.load(run["metadata"]["uid"])
            outputs = await ledger.run_outputs(run["metadata"]["uid"])
    assert state is not None
    assert outputs is not None
    _check_status(seen)
    _check_results(state, json.loads(outputs))
    _check_objects(seen)
    allowed = MEMORY_MIB + (0.0 if rig.as_in_a_pod else KUBECONFIG_MIB)
    assert peak <= allowed, f"the operator took {peak} MiB; {allowed} are allowed"


def _check_status(seen: Bystander) -> None:
    assert seen.largest_status <= STATUS_BYTES
    assert seen.statuses >= 3, "it was shown while it went on"
    assert seen.status["progress"] == f"{ITEMS + 1}/{ITEMS + 1}"
    assert seen.status["tasks"] == {"total": ITEMS + 1, "succeeded": ITEMS + 1}
    assert seen.status["attempts"] == ITEMS + 1
    assert [step["phase"] for step in seen.status["steps"]] == ["Succeeded", "Succeeded"]


def _check_results(state: RunState, outputs: Any) -> None:
    wanted: dict[str, Any] = {"all": [{"n": index} for index in range(ITEMS)]}
    assert outputs == wanted, "complete, and in order"
    assert value_of(state.tasks[TaskKey("join")].input) == {"count": ITEMS}
    assert len(state.tasks) == ITEMS + 1
    again = {task.name: task.attempt for task in state.tasks.values() if task.attempt != 1}
    assert not again, f"one attempt is enough for each: {again}"


def _check_objects(seen: Bystander) -> None:
    assert len(seen.pods) == ITEMS + 1
    twice = [name for name, uids in seen.pods.items() if len(uids) > 1]
    assert not twice, f"made twice: {twice}"
    assert all(name.startswith(f"{NAME}-") for name in seen.pods)
    # Pods that have just ended exceed the limit for a moment.
    assert seen.most_ended_tasks <= 2 * MAX_ENDED_TASKS


async def _namespace(kube: KubeClient) -> None:
    """Create the namespace, which is never deleted: the cluster is removed with its ten thousand pods."""
    await kube.create("Namespace", "", {"metadata": {"name": NAMESPACE}})

    async def usable() -> bool:
        try:
            await kube.raw_get(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return True

    await until(usable, within=60)
