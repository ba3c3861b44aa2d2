"""What schedules need of the simulated cluster beyond what runs need."""

from __future__ import annotations

import copy
import types
from typing import Any

from perdure.api import API_VERSION
from perdure.kube.errors import ApiError
from tests.simulated.cluster import SimulatedCluster

KIND = "WorkflowSchedule"
NAMESPACE = "default"
#: Every minute.
MINUTELY = "* * * * *"


def allow_patches(cluster: SimulatedCluster) -> None:
    """Let it take merge patches of a Workflow's spec."""

    async def patch(
        self: SimulatedCluster, kind: str, namespace: str, name: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        await self._before()
        obj = copy.deepcopy(self._find(kind, namespace, name))
        if body.get("metadata", {}).get("uid", obj["metadata"]["uid"]) != obj["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "the UID in the precondition differs")
        obj["spec"] |= body["spec"]
        obj["metadata"]["generation"] += 1
        self._objects[kind, namespace, name] = obj
        self._changed(kind, obj)
        await self._after()
        return copy.deepcopy(obj)

    cluster.patch = types.MethodType(patch, cluster)  # type: ignore[method-assign]


def schedule(name: str, run: dict[str, Any], *, every: str = MINUTELY, **fields: Any) -> dict[str, Any]:
    """A WorkflowSchedule that makes a run with this spec."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {"schedule": every, "workflow": {"spec": run}, **fields},
    }


def edit(cluster: SimulatedCluster, name: str, **fields: Any) -> None:
    """What `kubectl edit` does to the spec of a schedule."""
    obj = copy.deepcopy(cluster._objects[KIND, NAMESPACE, name])
    obj["spec"] |= fields
    obj["metadata"]["generation"] += 1
    cluster._objects[KIND, NAMESPACE, name] = obj
    cluster._changed(KIND, obj)
