"""The cluster in memory: an API server with watches that misbehave, controllers, and a kubelet."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from perdure.domain.engine.outcome import EXIT_INTERRUPTED
from perdure.domain.names import LABEL_TASK
from perdure.kube.errors import ApiError
from perdure.kube.page import Page
from tests.fakes.clients import brief_of
from tests.fakes.clock import now
from tests.simulated.chance import Chance

Place = tuple[str, str, str]
#: Called with kind, object, and whether it was deleted.
Watcher = Callable[[str, Mapping[str, Any], bool], None]


class SimulatedCluster:
    """Implements KubePort. `watch` delivers what happens as faithfully as `chance` lets."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._objects: dict[Place, dict[str, Any]] = {}
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._suffixes = itertools.count(1)
        self._watcher: Watcher | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Called for every pod that is made: the kubelet.
        self.kubelet: Callable[[dict[str, Any]], Awaitable[None]] | None = None
        self.outage = False
        #: Seconds that a pod takes to leave when it is deleted by a call; without, it is gone at once.
        self.grace = 0.0
        #: Whether Jobs get pods; if not, it is as with an exhausted quota.
        self.jobs_get_pods = True
        #: How often a pod was made, by its name or its Job's; how often pods of each task were disrupted, and
        #: failed by themselves.
        self.made: Counter[str] = Counter()
        self.disrupted: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def watch(self, watcher: Watcher | None) -> None:
        self._watcher = watcher

    # --- the verbs

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        await self._before()
        return copy.deepcopy(self._find(kind, namespace, name))

    async def list(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        await self._before()
        version = str(next(self._versions))
        found = [
            copy.deepcopy(obj)
            for place, obj in self._objects.items()
            if place[0] == kind and namespace in (None, place[1]) and _is_selected(obj, label_selector)
        ]
        await self._after()
        return found, version

    async def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        items, version = await self.list(kind, namespace=namespace, label_selector=label_selector)
        middle = len(items) // 2
        yield Page(items[:middle], version, True)
        yield Page(items[middle:], version, False)

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        await self._before()
        made = self.add(kind, namespace, body)
        await self._after()
        return brief_of(made) if brief else made

    async def replace(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError("nothing that is simulated replaces objects")

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError("nothing that is simulated patches objects")

    async def patch_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        body: dict[str, Any] | list[dict[str, Any]],
        *,
        brief: bool = False,
    ) -> dict[str, Any]:
        await self._before()
        obj = self._find(kind, namespace, name)
        assert isinstance(body, list), "statuses are written as JSON patches"
        changed = copy.deepcopy(obj)
        for change in body:
            _apply(changed, change)
        self._objects[kind, namespace, name] = changed
        self._changed(kind, changed)
        await self._after()
        return brief_of(changed) if brief else copy.deepcopy(changed)

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        await self._before()
        obj = self._objects.get((kind, namespace, name))
        if obj is not None and uid in (None, obj["metadata"]["uid"]):
            if kind == "Pod" and self.grace and _runs(obj):
                self._terminate(obj)
            else:
                self.remove(kind, namespace, name)
        await self._after()

    # --- what others do to the cluster

    def add(self, kind: str, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make an object. Raises ApiError 409 if one of its name is there."""
        name = body["metadata"]["name"]
        if (kind, namespace, name) in self._objects:
            raise ApiError(409, "AlreadyExists", name)
        obj = copy.deepcopy(body)
        obj["metadata"] |= {
            "namespace": namespace,
            "uid": f"uid-{next(self._uids)}",
            "generation": 1,
            "creationTimestamp": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self._objects[kind, namespace, name] = obj
        self._changed(kind, obj)
        if kind == "Pod":
            self.made[_job_of(obj) or name] += 1
            if self.kubelet is not None:
                self.start(self.kubelet(copy.deepcopy(obj)))
        if kind == "Job":
            self.start(self._run_job(copy.deepcopy(obj)))
        return copy.deepcopy(obj)

    def add_pod_of(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the Job controller does once for every Job."""
        metadata, template = job["metadata"], job["spec"]["template"]
        owner = {key: metadata[key] for key in ("name", "uid")}
        body = {
            "metadata": {
                **copy.deepcopy(template["metadata"]),
                "name": f"{metadata['name']}-{next(self._suffixes):05x}",
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "controller": True, **owner}],
            },
            "spec": template["spec"],
        }
        return self.add("Pod", metadata["namespace"], body)

    def set_status(self, kind: str, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status, if the object is still there. Returns whether it was."""
        obj = self._objects.get((kind, namespace, name))
        if obj is None or obj["metadata"]["uid"] != uid:
            return False
        obj = copy.deepcopy(obj)
        obj["status"] = status
        self._objects[kind, namespace, name] = obj
        self._changed(kind, obj)
        return True

    def changed(self, kind: str, namespace: str, name: str) -> None:
        """Tell of an object that was changed in place."""
        obj = copy.deepcopy(self._objects[kind, namespace, name])
        self._objects[kind, namespace, name] = obj
        self._changed(kind, obj)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, and after a while what it owns."""
        obj = self._objects.pop((kind, namespace, name), None)
        if obj is None:
            return
        self._stamp(obj)
        self._deliver(kind, obj, True)
        self.start(self._collect(obj["metadata"]["uid"]))
        if kind == "Pod" and _job_of(obj) is not None:
            self.start(self._end_job(obj))

    def find(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        return self._objects.get((kind, namespace, name))

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [obj for place, obj in self._objects.items() if place[0] == kind]

    def start(self, work: Awaitable[None]) -> None:
        """Run something beside; errors surface in `stop`."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # type: ignore[arg-type] # a coroutine's future is a task

    async def stop(self) -> None:
        """End what runs beside. Raises what went wrong there."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    # --- underneath

    def _find(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        obj = self._objects.get((kind, namespace, name))
        if obj is None:
            raise ApiError(404, "NotFound", f"{kind} {name}")
        return obj

    async def _before(self) -> None:
        await self._chance.latency()
        if self.outage:
            raise ApiError(0, "", "connection refused")
        if self._chance.happens(self._chance.odds.call_fails):
            raise ApiError(self._chance.choice([0, 429, 500, 503]), "Fault", "before it took effect")

    async def _after(self) -> None:
        await self._chance.latency()
        if self._chance.happens(self._chance.odds.call_fails):
            raise ApiError(0, "", "the answer was lost")

    def _stamp(self, obj: dict[str, Any]) -> None:
        obj["metadata"]["resourceVersion"] = str(next(self._versions))

    def _changed(self, kind: str, obj: dict[str, Any]) -> None:
        self._stamp(obj)
        self._deliver(kind, obj, False)

    def _deliver(self, kind: str, obj: dict[str, Any], deleted: bool) -> None:
        odds = self._chance.odds
        if self._watcher is None or self._chance.happens(odds.event_lost):
            return
        late = self._chance.happens(odds.event_late)
        for _ in range(2 if self._chance.happens(odds.event_twice) else 1):
            delay = self._chance.between(0.5, 5.0) if late else self._chance.between(0.0005, 0.01)
            asyncio.get_running_loop().call_later(delay, self._hear, kind, copy.deepcopy(obj), deleted)

    def _hear(self, kind: str, obj: dict[str, Any], deleted: bool) -> None:
        if self._watcher is not None:
            self._watcher(kind, obj, deleted)

    async def _run_job(self, job: dict[str, Any]) -> None:
        await asyncio.sleep(self._chance.between(0.01, 1.0))
        metadata = job["metadata"]
        there = self._objects.get(("Job", metadata["namespace"], metadata["name"]))
        if self.jobs_get_pods and there is not None and there["metadata"]["uid"] == metadata["uid"]:
            self.add_pod_of(job)

    async def _end_job(self, pod: dict[str, Any]) -> None:
        """A Job ends with its pod, and makes no other."""
        await asyncio.sleep(self._chance.between(0.01, 1.0))
        place = "Job", pod["metadata"]["namespace"], _job_of(pod) or ""
        job = self._objects.get(place)
        if job is not None and "status" not in job:
            succeeded = (pod.get("status") or {}).get("phase") == "Succeeded"
            ended = {"type": "Complete" if succeeded else "Failed", "status": "True"}
            self.set_status(*place, job["metadata"]["uid"], {"conditions": [ended]})

    def _terminate(self, pod: dict[str, Any]) -> None:
        """Let a pod save a checkpoint and leave."""
        place = "Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]
        if "deletionTimestamp" in pod["metadata"]:
            return
        end = now() + timedelta(seconds=30)
        pod = copy.deepcopy(pod)
        pod["metadata"]["deletionTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._objects[place] = pod
        self._changed("Pod", pod)

        async def leave() -> None:
            await asyncio.sleep(self.grace)
            there = self._objects.get(place)
            if there is None or there["metadata"]["uid"] != pod["metadata"]["uid"]:
                return
            if _runs(there):
                state = copy.deepcopy(there["status"])
                for container in state["containerStatuses"]:
                    started = container["state"]["running"]["startedAt"]
                    exited = {"exitCode": EXIT_INTERRUPTED, "reason": "Error", "startedAt": started}
                    container["state"] = {"terminated": exited}
                self.set_status(*place, pod["metadata"]["uid"], state | {"phase": "Failed"})
            self.remove(*place)

        self.start(leave())

    async def _collect(self, owner_uid: str) -> None:
        await asyncio.sleep(self._chance.between(0.01, 1.0))
        for (kind, namespace, name), obj in list(self._objects.items()):
            owners = obj["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == owner_uid for owner in owners):
                self.remove(kind, namespace, name)


class Kubelet:
    """Runs pods: each starts after a while and ends as its script says."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        chance: Chance,
        script: Callable[[dict[str, Any]], Awaitable[tuple[int, str]]],
    ) -> None:
        self._cluster = cluster
        self._chance = chance
        self._script = script
        cluster.kubelet = self.run

    async def run(self, pod: dict[str, Any]) -> None:
        """One pod's life. `script` is the agent: it gives exit code and termination message."""
        await asyncio.sleep(self._chance.between(0.01, 1.0))
        started = now().isoformat()
        if not self._set(pod, "Running", {"running": {"startedAt": started}}):
            return
        disrupted = self._chance.happens(self._chance.odds.pod_disrupted)
        if disrupted:
            self._cluster.disrupted[task_of(pod)] += 1
            await asyncio.sleep(self._chance.between(0.01, 5.0))
            if self._chance.happens(0.5):
                metadata = pod["metadata"]
                self._cluster.remove("Pod", metadata["namespace"], metadata["name"])
                return
            exited = {"exitCode": 137, "reason": "Error", "startedAt": started}
            self._set(pod, "Failed", {"terminated": exited}, evicted=True)
            return
        code, message = await self._script(pod)
        self._cluster.failed[task_of(pod)] += code != 0
        exited = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": started}
        self._set(pod, "Failed" if code else "Succeeded", {"terminated": {**exited, "message": message}})

    def _set(self, pod: dict[str, Any], phase: str, state: dict[str, Any], *, evicted: bool = False) -> bool:
        metadata = pod["metadata"]
        status: dict[str, Any] = {
            "phase": phase,
            "containerStatuses": [{"name": "agent", "state": state}],
            "conditions": [],
        }
        if evicted:
            status["reason"] = "Evicted"
            status["conditions"] = [
                {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
            ]
        return self._cluster.set_status(
            "Pod", metadata["namespace"], metadata["name"], metadata["uid"], status
        )


def task_of(pod: Mapping[str, Any]) -> str:
    """Name of a pod's AgentTask."""
    return str(pod["metadata"]["labels"][LABEL_TASK])


def _job_of(pod: Mapping[str, Any]) -> str | None:
    """Name of the Job that made a pod."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((owner["name"] for owner in owners if owner["kind"] == "Job"), None)


def _runs(pod: Mapping[str, Any]) -> bool:
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    return any("running" in container["state"] for container in containers)


def _is_selected(obj: Mapping[str, Any], selector: str | None) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return all(labels.get(name) == value for name, _, value in _terms(selector))


def _terms(selector: str | None) -> list[tuple[str, str, str]]:
    return [term.partition("=") for term in selector.split(",")] if selector else []


def _apply(obj: dict[str, Any], change: dict[str, Any]) -> None:
    """One operation of a JSON patch, as far as statuses need it."""
    parts = [part for part in change["path"].split("/") if part]
    target = obj
    for part in parts[:-1]:
        if part not in target:
            raise ApiError(422, "Invalid", f"no path {change['path']}")
        target = target[part]
    if change["op"] == "test":
        if target.get(parts[-1]) != change["value"]:
            raise ApiError(422, "Invalid", "the test failed")
    elif change["op"] == "add":
        target[parts[-1]] = copy.deepcopy(change["value"])
    elif change["op"] == "remove":
        if parts[-1] not in target:
            raise ApiError(422, "Invalid", f"no path {change['path']}")
        del target[parts[-1]]
    else:
        raise AssertionError(f"unexpected operation {change['op']!r}")
