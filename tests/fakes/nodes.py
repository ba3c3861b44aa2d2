"""Nodes with their kubelets, and the controllers between an object and a running pod."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from perdure.domain.names import LABEL_ATTEMPT, LABEL_TASK
from tests.fakes.agents import Agent
from tests.fakes.apiserver import ApiServer, Object
from tests.fakes.clock import now
from tests.fakes.faults import Faults
from tests.fakes.guarantees import Guarantees
from tests.fakes.jobs import JOB_UID, job_of, pod_of_job
from tests.fakes.model import PodTruth
from tests.fakes.network import OUTSIDE

#: Seconds from the loss of a node to the eviction of its pods, and from there to their forced deletion.
SILENCE: Final = (5.0, 40.0)
FORCED_DELETION: Final = (30.0, 120.0)
KILLED: Final = 137


class Node:
    """A machine. Pods of an unreachable node run on, unseen; pods of a crashed node do not run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reachable = asyncio.Event()
        self.reachable.set()
        self.crashed = False


class Pod:
    """One pod on its node, from its binding to its end."""

    def __init__(self, obj: Object, node: Node, agent: Agent, truth: PodTruth) -> None:
        self.obj = obj
        self.node = node
        self.agent = agent
        self.truth = truth
        self.started = False
        #: No code of the pod will ever run again, whether the cluster knows or not.
        self.dead = False
        self.ended: asyncio.Future[tuple[int, str, str]] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        self.started = True
        self.truth.started_at = now()
        self.agent.start(self._exited)

    def _exited(self, code: int, message: str) -> None:
        if not self.ended.done():
            self.truth.code = code
            self.ended.set_result((code, message, "Completed" if code == 0 else "Error"))

    def kill(self, code: int = KILLED, reason: str = "Error") -> None:
        """SIGKILL."""
        self.die()
        if not self.ended.done():
            self.ended.set_result((code, "", reason))

    def crash(self, reason: str) -> None:
        """Kill the agent from inside: the end counts as a failure of the agent, not as a disruption."""
        self.die()
        if not self.ended.done():
            self.truth.code = KILLED
            self.ended.set_result((KILLED, "", reason))

    def thaw(self) -> None:
        """SIGCONT, for an agent that is not dead."""
        if not self.dead:
            self.agent.process.resume()

    def die(self) -> None:
        """End at once, without a kubelet that reports the end."""
        self.dead = True
        self.agent.process.stop()

    async def leave(self, grace: float) -> None:
        """SIGTERM, and SIGKILL when the grace is over."""
        if self.started:
            self.agent.terminate()
            await asyncio.wait({self.ended}, timeout=grace)
        self.kill()


class Nodes:
    """Scheduler, kubelets, Job controller, and the controller that deletes pods of lost nodes."""

    def __init__(
        self,
        api: ApiServer,
        faults: Faults,
        guarantees: Guarantees,
        agent: Callable[[Object, PodTruth], Agent],
    ) -> None:
        self._api = api
        self._faults = faults
        self._guarantees = guarantees
        self._agent = agent
        self._nodes = [Node(f"node-{number}") for number in range(3)]
        self._jobs = 0
        #: Seconds between SIGTERM and SIGKILL of a deleted pod; None for a draw.
        self.grace: float | None = None
        #: Whether Jobs get pods; otherwise it is as with an exhausted quota.
        self.jobs_get_pods = True
        #: Pods that may still run, by uid.
        self.pods: dict[str, Pod] = {}
        #: The run that an object belongs to, by the object's uid; and the run that made it, for children.
        self.run_of: dict[str, str] = {}
        self.maker_of: dict[str, str] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        api.on_made = self._made
        api.on_terminating = self._terminating
        api.on_removed = self._removed
        api.on_collected = self._collected
        api.on_job_changed = lambda job: self.start(self._sync_job(job))
        #: By Job, the uids of its pods that have failed.
        self._failed_of_job: dict[str, set[str]] = {}

    def start(self, work: Any) -> None:
        """Run a coroutine in the background, outside of all processes."""
        task = asyncio.get_running_loop().create_task(work, context=OUTSIDE)
        self.tasks.add(task)
        task.add_done_callback(self._ended, context=OUTSIDE)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._guarantees.broken(f"a fake failed: {task.exception()!r}")

    # --- what the control plane does

    def _made(self, kind: str, obj: Object) -> None:
        metadata = obj["metadata"]
        owners = metadata.get("ownerReferences") or ()
        owner = next((ref["uid"] for ref in owners if ref.get("controller")), "")
        alone = kind in ("Workflow", "AgentTask") and owner not in self.run_of
        self.maker_of[metadata["uid"]] = self.run_of.get(owner, "")
        own = alone or kind == "Workflow"
        self.run_of[metadata["uid"]] = metadata["uid"] if own else self.run_of.get(owner, "")
        if kind == "Pod" and owner and LABEL_TASK in (metadata.get("labels") or {}):
            self.start(self._run_pod(self._place(obj)))
        elif kind == "Job":
            self.start(self._sync_job(obj))

    def _terminating(self, obj: Object) -> None:
        pod = self.pods.get(obj["metadata"]["uid"])
        if pod is not None:
            self.start(self._leave(pod))

    def _removed(self, obj: Object) -> None:
        """An object was removed without waiting for its kubelet."""
        self._taken(obj)
        pod = self.pods.get(obj["metadata"]["uid"])
        if pod is not None:
            self.start(self._leave(pod))
        for owner in obj["metadata"].get("ownerReferences") or ():
            if owner["kind"] == "Job":
                self.start(self._end_job(owner["name"], owner["uid"], obj))

    def _collected(self, obj: Object) -> None:
        """The garbage collector deletes an object, and later the pod of a Job."""
        self._taken(obj)
        for pod in self._api.all("Pod"):
            owners = pod["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == obj["metadata"]["uid"] for owner in owners):
                self._taken(pod)

    def _taken(self, obj: Object) -> None:
        """The end of the pod can no longer be observed, even if the agent had ended by itself."""
        truth = self._guarantees.truths.get(obj["metadata"]["uid"])
        if truth is not None:
            truth.outside = True

    async def _leave(self, pod: Pod) -> None:
        await self._connected(pod.node)
        await asyncio.sleep(self._faults.between(0.001, 0.5))
        await pod.leave(self._faults.choice([2.0, 30.0]) if self.grace is None else self.grace)

    async def _connected(self, node: Node) -> None:
        """Wait until node and API server can reach each other."""
        while self._api.away or not node.reachable.is_set():
            await self._api.back.wait()
            await node.reachable.wait()

    async def _sync_job(self, job: Object) -> None:
        """What the Job controller does: a pod for a Job without one, none for a Job that is suspended."""
        metadata = job["metadata"]
        namespace = metadata["namespace"]
        await asyncio.sleep(self._faults.between(0.01, 1.0))
        await self._api.back.wait()
        there = self._api.objects.get(("Job", namespace, metadata["name"]))
        if there is None or there["metadata"]["uid"] != metadata["uid"] or "status" in there:
            return
        live = [pod for pod in self._pods_of_job(metadata["uid"]) if not _has_ended(pod)]
        if there["spec"].get("suspend"):
            for pod in live:
                self._taken(pod)
                self._api.delete("Pod", namespace, pod["metadata"]["name"], pod["metadata"]["uid"])
            return
        if live or not self.jobs_get_pods:
            return
        self._jobs += 1
        job = there
        body = pod_of_job(job, self._jobs)
        quota, self._api.quota_used_up = self._api.quota_used_up, False
        refusal, self._api.refusal = self._api.refusal, None
        self._api.create("Pod", namespace, body)
        self._api.quota_used_up = quota
        self._api.refusal = refusal

    def _pods_of_job(self, uid: str) -> list[Object]:
        return [
            pod
            for pod in self._api.all("Pod")
            if (owner := job_of(pod)) is not None
            and owner["uid"] == uid
            and (pod["metadata"].get("labels") or {}).get(JOB_UID) == uid
        ]

    async def _end_job(self, name: str, uid: str, pod: Object) -> None:
        """A Job ends with its pod, and creates no other unless its `backoffLimit` was raised."""
        await asyncio.sleep(self._faults.between(0.01, 1.0))
        await self._api.back.wait()
        job = self._api.objects.get(("Job", pod["metadata"]["namespace"], name))
        if job is None or job["metadata"]["uid"] != uid or "status" in job or job["spec"].get("suspend"):
            return
        succeeded = (pod.get("status") or {}).get("phase") == "Succeeded"
        failed = self._failed_of_job.setdefault(uid, set())
        if not succeeded:
            failed.add(pod["metadata"]["uid"])
        if succeeded or len(failed) > job["spec"].get("backoffLimit", 0):
            ended = {"type": "Complete" if succeeded else "Failed", "status": "True"}
            self._api.change(job, "Job", status={"conditions": [ended]})
        else:
            await self._sync_job(job)

    def release_from_job(self, pod: Pod) -> None:
        """A user takes the Job controller's label from a pod: it gives the pod up, and creates another."""
        owner = job_of(self._there(pod))
        if owner is None:
            return
        job = self._api.objects.get(("Job", pod.obj["metadata"]["namespace"], owner["name"]))
        if self._api.relabel(pod.obj, "Pod", {JOB_UID: None}, ownerReferences=[]) and job is not None:
            self.start(self._sync_job(job))

    # --- what a kubelet does

    def _place(self, obj: Object) -> Pod:
        metadata = obj["metadata"]
        labels = metadata["labels"]
        truth = PodTruth(metadata["name"], metadata["uid"], labels[LABEL_TASK], int(labels[LABEL_ATTEMPT]))
        self._guarantees.pod_made(truth, self.run_of[metadata["uid"]])
        self._check_alone(truth, obj)
        pod = Pod(obj, self._faults.choice(self._nodes), self._agent(obj, truth), truth)
        self.pods[metadata["uid"]] = pod
        pod.agent.on_report = partial(self._reports, pod)
        return pod

    def _reports(self, pod: Pod) -> None:
        """A report is in flight: a user may delete the pod at this moment."""
        if not self._api.away and self._faults.happens("deleted while reporting"):
            self.delete(pod, force=True)

    async def _run_pod(self, pod: Pod) -> None:
        obj, metadata = pod.obj, pod.obj["metadata"]
        slow = self._faults.happens("slow start")
        await asyncio.sleep(self._faults.between(20.0, 100.0) if slow else self._faults.between(0.01, 1.0))
        await self._connected(pod.node)
        if not self._api.change(obj, "Pod", spec={**obj["spec"], "nodeName": pod.node.name}):
            self.pods.pop(metadata["uid"], None)
            return
        await asyncio.sleep(self._faults.between(0.01, 0.5))
        await self._connected(pod.node)
        if pod.ended.done() or "deletionTimestamp" in self._there(pod)["metadata"]:
            pod.kill()
        else:
            pod.start()
            running = {"running": {"startedAt": _seconds()}}
            self._show(pod, "Running", running)
            if self._faults.happens("pod disrupted"):
                self.start(self._disrupt(pod))
        code, message, reason = await pod.ended
        await asyncio.sleep(self._faults.between(0.01, 0.5))
        await self._connected(pod.node)
        exited: Object = {"exitCode": code, "reason": reason, "message": message}
        if pod.truth.started_at is not None:
            exited["startedAt"] = pod.truth.started_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._show(pod, "Succeeded" if code == 0 else "Failed", {"terminated": exited})
        self.pods.pop(metadata["uid"], None)
        if "deletionTimestamp" in self._there(pod)["metadata"]:
            await asyncio.sleep(self._faults.between(0.01, 0.5))
            await self._connected(pod.node)
            self._api.remove("Pod", metadata["namespace"], metadata["name"], uid=metadata["uid"])
        elif job_of(obj) is not None:
            job = job_of(obj)
            assert job is not None
            self.start(self._end_job(job["name"], job["uid"], self._there(pod)))

    def _there(self, pod: Pod) -> Object:
        """The object of the pod; its last version if it was deleted."""
        metadata = pod.obj["metadata"]
        found = self._api.objects.get(("Pod", metadata["namespace"], metadata["name"]))
        same = found is not None and found["metadata"]["uid"] == metadata["uid"]
        return found if same and found is not None else {**pod.obj, "status": {"phase": "Failed"}}

    def _show(self, pod: Pod, phase: str, state: Object) -> None:
        status: Object = dict(self._there(pod).get("status") or {})
        status |= {"phase": phase, "containerStatuses": [{"name": "agent", "state": state}]}
        self._api.change(pod.obj, "Pod", status=status)

    def _check_alone(self, truth: PodTruth, obj: Object) -> None:
        """A pod is created only when the one of the attempt before has ended, is gone, or is to leave.

        Further pods of a Job that a user changed are the doing of the Job controller. A request that
        arrives late may create the pod of an attempt whose successor has a pod already.
        """
        run = self.run_of[truth.uid]
        for other in list(self.pods.values()):
            theirs = other.truth
            if theirs.uid == truth.uid or theirs.task != truth.task or self.run_of[theirs.uid] != run:
                continue
            there = self._api.objects.get(("Pod", obj["metadata"]["namespace"], theirs.pod))
            alive = (
                there is not None
                and there["metadata"]["uid"] == theirs.uid
                and "deletionTimestamp" not in there["metadata"]
                and not _has_ended(there)
            )
            if theirs.attempt == truth.attempt and job_of(obj) is None:
                self._guarantees.demand(
                    not alive, f"{truth.pod} and {theirs.pod} live at once for one attempt"
                )
            elif theirs.attempt == truth.attempt - 1:
                self._guarantees.demand(
                    not alive, f"{truth.pod} is created, and {theirs.pod} was not asked to leave"
                )

    # --- what goes wrong

    def running(self) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.started and not pod.ended.done()]

    def delete(self, pod: Pod, *, force: bool) -> None:
        """A user deletes a pod; with force, without waiting for its kubelet."""
        metadata = pod.obj["metadata"]
        pod.truth.outside = True
        if force:
            self._api.remove("Pod", metadata["namespace"], metadata["name"], uid=metadata["uid"])
        else:
            self._api.delete("Pod", metadata["namespace"], metadata["name"], metadata["uid"])

    def evict(self, pod: Pod) -> None:
        """Eviction for lack of memory: the kubelet kills the pod, whose object stays."""
        if pod.ended.done():
            return
        pod.truth.outside = True
        self._target(pod, "TerminationByKubelet", reason="Evicted")
        self.start(pod.leave(self._faults.choice([0.0, 5.0])))

    def _target(self, pod: Pod, cause: str, **fields: Any) -> None:
        status = dict(self._there(pod).get("status") or {})
        status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": cause}]
        self._api.change(pod.obj, "Pod", status=status | fields)

    async def _disrupt(self, pod: Pod) -> None:
        """A pod is deleted or evicted soon after its start."""
        await asyncio.sleep(self._faults.between(0.01, 5.0))
        if not pod.ended.done() and not self._api.away:
            if self._faults.chance(0.5):
                self.delete(pod, force=True)
            else:
                self.evict(pod)

    def lose_node(self) -> None:
        """Make a node unreachable. Its pods may run on, and are deleted after a while; it may return."""
        nodes = [node for node in self._nodes if node.reachable.is_set()]
        if len(nodes) > 1:
            self.start(self._lose(self._faults.choice(nodes), crashed=self._faults.chance(0.5)))

    async def _lose(self, node: Node, *, crashed: bool) -> None:
        faults = self._faults
        node.reachable.clear()
        node.crashed = crashed
        if crashed:
            for pod in self._on(node):
                pod.truth.outside = True
                pod.die()
        await asyncio.sleep(faults.between(*SILENCE))
        await self._api.back.wait()
        for pod in self._on(node):
            pod.truth.outside = True
            self._target(pod, "DeletionByTaintManager")
            metadata = pod.obj["metadata"]
            self._api.delete("Pod", metadata["namespace"], metadata["name"], metadata["uid"])
        if faults.chance(0.5):
            await asyncio.sleep(faults.between(*FORCED_DELETION))
            await self._api.back.wait()
            for pod in self._on(node):
                metadata = pod.obj["metadata"]
                self._api.remove("Pod", metadata["namespace"], metadata["name"], uid=metadata["uid"])
        await asyncio.sleep(faults.between(1.0, 60.0))
        for pod in self._on(node) if crashed else ():
            pod.truth.outside = True
            pod.kill(KILLED, "ContainerStatusUnknown")
        node.crashed = False
        node.reachable.set()

    def _on(self, node: Node) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.node is node]

    def heal(self) -> None:
        """Make all nodes reachable that have not crashed."""
        for node in self._nodes:
            if not node.crashed:
                node.reachable.set()


def _has_ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _seconds() -> str:
    return now().strftime("%Y-%m-%dT%H:%M:%SZ")
