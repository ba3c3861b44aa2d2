"""A cluster for unit tests: an API server without faults, one client, one watch, and the Job controller.

Pods do not run by themselves: a test plays the kubelet with `set_status`. Tests of a whole run use `World`.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from perdure.domain.engine.outcome import EXIT_INTERRUPTED
from tests.fakes.apiserver import NAMESPACE, ApiServer, Object, Watch
from tests.fakes.clients import KubeClient
from tests.fakes.faults import NONE, Faults
from tests.fakes.jobs import job_of, pod_of_job


class Cluster(KubeClient):
    """Implements KubePort, and plays what others do to the cluster."""

    def __init__(self) -> None:
        self.api = ApiServer(Faults(1, NONE))
        super().__init__(self.api, lambda verb, kind, name: None)
        self.api.on_made = self._made
        self.api.on_terminating = self._terminating
        self.api.on_removed = self._removed
        #: Whether Jobs get pods; otherwise it is as with an exhausted quota.
        self.jobs_get_pods = True
        #: Seconds that a running pod takes to leave when it is deleted; 0 for none.
        self.grace = 0.0
        #: How often a pod was created, by its name or its Job's.
        self.made: Counter[str] = Counter()
        self._jobs = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, handler: Callable[[str, Mapping[str, Any], bool], None] | None) -> None:
        """Report every change from now on to this handler alone; to none if there is none."""
        self.api.watches.clear()
        if handler is not None:
            self.api.watches.append(Watch(self.api, contextvars.Context(), handler, lambda: None))

    # --- what others do

    def add(self, kind: str, namespace: str, body: Object) -> Object:
        return self.api.create(kind, namespace, body)

    def add_pod_of(self, job: Object) -> Object:
        """What the Job controller does once for every Job."""
        self._jobs += 1
        return self.api.create("Pod", job["metadata"]["namespace"], pod_of_job(job, self._jobs))

    def set_status(self, kind: str, namespace: str, name: str, uid: str, status: Object) -> None:
        """Write a status, if the object is still there."""
        found = self.stored(kind, name, namespace)
        if found is not None and found["metadata"]["uid"] == uid:
            spec = found.get("spec") or {}
            if kind == "Pod" and self.grace and _runs(status):
                # The API server leaves the end of a pod on a node to the kubelet.
                spec = {**spec, "nodeName": "node-1"}
            self.api.change(found, kind, status=status, spec=spec)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Take an object out at once, and after a while what it owns."""
        self.api.remove(kind, namespace, name)

    def stored(self, kind: str, name: str, namespace: str = NAMESPACE) -> Object | None:
        return self.api.objects.get((kind, namespace, name))

    def all(self, kind: str) -> list[Object]:
        return self.api.all(kind)

    # --- controllers

    def _made(self, kind: str, obj: Object) -> None:
        if kind == "Pod":
            owner = job_of(obj)
            self.made[obj["metadata"]["name"] if owner is None else owner["name"]] += 1
        if kind == "Job":
            self._start(self._run_job(obj))

    async def _run_job(self, job: Object) -> None:
        await asyncio.sleep(self.api.faults.between(0.01, 1.0))
        metadata = job["metadata"]
        there = self.stored("Job", metadata["name"], metadata["namespace"])
        if self.jobs_get_pods and there is not None and there["metadata"]["uid"] == metadata["uid"]:
            self.add_pod_of(job)

    def _removed(self, obj: Object) -> None:
        if job_of(obj) is not None:
            self._start(self._end_job(obj))

    async def _end_job(self, pod: Object) -> None:
        """A Job ends with its pod, and makes no other."""
        await asyncio.sleep(self.api.faults.between(0.01, 1.0))
        owner = job_of(pod)
        assert owner is not None
        job = self.stored("Job", owner["name"], pod["metadata"]["namespace"])
        if job is not None and "status" not in job and not job["spec"].get("suspend"):
            succeeded = (pod.get("status") or {}).get("phase") == "Succeeded"
            ended = {"type": "Complete" if succeeded else "Failed", "status": "True"}
            self.api.change(job, "Job", status={"conditions": [ended]})

    def _terminating(self, pod: Object) -> None:
        """Let a pod save a checkpoint and leave."""
        self._start(self._leave(pod))

    async def _leave(self, pod: Object) -> None:
        await asyncio.sleep(self.grace)
        metadata = pod["metadata"]
        there = self.stored("Pod", metadata["name"], metadata["namespace"])
        if there is None or there["metadata"]["uid"] != metadata["uid"]:
            return
        if _runs(there.get("status") or {}):
            status = copy.deepcopy(there["status"])
            for container in status["containerStatuses"]:
                started = container["state"]["running"]["startedAt"]
                exited = {"exitCode": EXIT_INTERRUPTED, "reason": "Error", "startedAt": started}
                container["state"] = {"terminated": exited}
            self.api.change(there, "Pod", status=status | {"phase": "Failed"})
        self.api.remove("Pod", metadata["namespace"], metadata["name"], uid=metadata["uid"])

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)


def _runs(status: Object) -> bool:
    return any("running" in container["state"] for container in status.get("containerStatuses") or ())
