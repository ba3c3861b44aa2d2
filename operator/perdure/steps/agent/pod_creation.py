"""The creation of an attempt's pod, or of its Job, under the AgentTask that owns it.

Before that, whatever the attempt before left behind is asked to leave: two pods of a task never run at once
unless one of them was asked to leave. That holds for pods that no pass expects any more: of an attempt whose
time was over, of one that reported its failure and works on, of a Job that was suspended, or changed so that
the Job creates further pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from perdure.api.workflow import MAX_INPUT_BYTES
from perdure.control.cluster_cache.store import POD
from perdure.control.live_run import LiveRun
from perdure.control.runs.creation import Created, InvalidObject, StillSuspended, create_owned
from perdure.control.runs.deletion import JOB, deletion_of_pod
from perdure.control.runs.evaluations import evaluated
from perdure.control.runs.executor import ExecutorContext
from perdure.domain.engine.pod_facts import PodFacts, read_pod
from perdure.domain.kube_objects import is_controlled_by
from perdure.domain.names import pod_name
from perdure.domain.records import AGENT_TASK, AttemptRecord, TaskRecord
from perdure.kube.podtemplate import PodTemplateError
from perdure.steps.agent.attempt_pods import (
    JOB_RECHECK,
    LABEL_JOB_UID,
    AttemptPods,
    is_as_created,
    is_suspended,
    job_of,
    made_job,
    makes_no_pod,
)
from perdure.steps.agent.manifests import agent_block, attempt_manifest, runs_as_job, task_manifest


class PodCreation:
    """Creates what is missing. Names are deterministic, so a creation that was repeated finds the object."""

    def __init__(self, context: ExecutorContext, pods: AttemptPods) -> None:
        self._context = context
        self._store = context.store
        self._kube = context.kube
        self._pods = pods

    async def ensure(self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord) -> str | None:
        """The uid of the attempt's pod; None if the pod is a Job's, and still to come."""
        owner_uid = await self._ensure_task(live, task)
        if attempt.number > 1:
            await self._leave_before(live, task, attempt, owner_uid)
        if runs_as_job(live, task.key):
            return await self._ensure_job(live, task, attempt, owner_uid)
        return await self._ensure_pod(live, task, attempt, owner_uid)

    async def _ensure_task(self, live: LiveRun, task: TaskRecord) -> str:
        """The uid of the task's AgentTask object, created if need be."""
        if live.key.kind == AGENT_TASK:
            return live.uid
        children = self._store.of(live.key)
        if task.name in children.tasks:
            return children.tasks[task.name].uid
        agent, input = await self._agent(live, task), await self._input(live, task)
        body = task_manifest(live, task, agent, input)
        made = await self._create(AGENT_TASK, live, body, owner=(live.uid, live.key.name))
        self._store.apply_created(AGENT_TASK, made.obj)
        return str(made.obj["metadata"]["uid"])

    async def _leave_before(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> None:
        """See to it that the attempt before is gone, or has been asked to leave.

        Raises StillSuspended while its Job is suspended.
        """
        number = attempt.number - 1
        name = pod_name(task.name, live.uid, task.key, number)
        pod = self._store.of(live.key).pods.get(name)
        if pod is not None and pod.task != task.name:
            pod = None
        if runs_as_job(live, task.key):
            job = await self._kube.find(JOB, live.key.namespace, name)
            if job is not None and is_controlled_by(job, owner_uid) and not makes_no_pod(job):
                if is_suspended(job):
                    raise StillSuspended(
                        f"Job {name} of attempt {number} is suspended: resume or delete it,"
                        " and the next attempt starts"
                    )
                if await self._end_job(live, job):
                    return
        elif pod is None and live.objects.unsure.get(task.key) == attempt.number:
            # The operator was restarted since that attempt was closed, and may not have deleted its pod.
            there = await self._kube.find(POD, live.key.namespace, name)
            if there is not None and is_controlled_by(there, owner_uid):
                pod = read_pod(there)
        if pod is None or pod.ended or pod.deletion is not None:
            return
        deletion = deletion_of_pod(pod)
        await self._kube.delete(deletion.kind, live.key.namespace, deletion.name, uid=deletion.uid)
        if deletion.kind == JOB:
            # The garbage collector comes for the pod of a deleted Job in its own time.
            await self._kube.delete(POD, live.key.namespace, pod.pod_name, uid=pod.uid)

    async def _end_job(self, live: LiveRun, job: Mapping[str, Any]) -> bool:
        """Delete the Job of the attempt before, and its pods, unless its one pod has ended.

        The pods are deleted here, too: the garbage collector may come for them only when the next attempt
        runs. A Job without a pod, or with pods that run, would create or keep one next to the next attempt's:
        such a Job was resumed, or changed. Returns whether the Job was deleted.
        """
        namespace, uid = live.key.namespace, job["metadata"]["uid"]
        if is_as_created(job):
            pods = await self._pods_of_job(namespace, uid)
            if pods and all(pod.ended for pod in pods):
                return False
        await self._kube.delete(JOB, namespace, job["metadata"]["name"], uid=uid)
        # The pods are listed only now: until its deletion, the Job may have created another one.
        for pod in await self._pods_of_job(namespace, uid):
            if not pod.ended and pod.deletion is None:
                await self._kube.delete(POD, namespace, pod.pod_name, uid=pod.uid)
        return True

    async def _pods_of_job(self, namespace: str, uid: str) -> list[PodFacts]:
        pods, _ = await self._kube.list(POD, namespace=namespace, label_selector=f"{LABEL_JOB_UID}={uid}")
        return [read_pod(pod) for pod in pods]

    async def _ensure_pod(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> str:
        """The uid of the attempt's pod, created if need be."""
        known = self._store.of(live.key).pods.get(attempt.pod_name)
        if known is not None and known.owner_uid == owner_uid:
            live.objects.adopted.add(task.key)
            return known.uid
        body = await self._manifest(live, task, attempt, owner_uid)
        since = self._store.removals
        made = await self._create(POD, live, body, owner=(owner_uid, task.name))
        if made.existed:
            # Its agent may have ended long ago, in which case no event follows.
            self._pods.take(live, attempt, made.obj, since=since)
            live.objects.adopted.add(task.key)
        else:
            self._store.apply_created(POD, made.obj)
        return str(made.obj["metadata"]["uid"])

    async def _ensure_job(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> str | None:
        """The uid of the pod of the attempt's Job, created if need be; None while it has no pod."""
        if made_job(live, attempt) is None:
            body = await self._manifest(live, task, attempt, owner_uid)
            made = await self._create(JOB, live, body, owner=(owner_uid, task.name))
            live.objects.jobs[task.key] = job_of(attempt, made.obj)
            live.objects.recheck[task.key] = self._context.clock() + JOB_RECHECK
            if made.existed:
                live.objects.adopted.add(task.key)
        pod = self._pods.known(live, attempt)
        return None if pod is None else pod.uid

    async def _create(
        self, kind: str, live: LiveRun, body: dict[str, Any], *, owner: tuple[str, str]
    ) -> Created:
        return await create_owned(self._kube, kind, live.key.namespace, body, owner=owner)

    async def _input(self, live: LiveRun, task: TaskRecord) -> bytes | None:
        """The input as compact JSON; None for one that the gateway serves. Raises LedgerError."""
        if task.input is not None and task.input.size > MAX_INPUT_BYTES:
            return None
        return await self._context.payloads.task_input(live.uid, task)

    async def _agent(self, live: LiveRun, task: TaskRecord) -> dict[str, Any]:
        """The rendered agent block. Raises ExpressionError."""
        render = partial(agent_block, live, task)
        return await evaluated(self._context.evaluator, live, render)

    async def _manifest(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> dict[str, Any]:
        agent, input = await self._agent(live, task), await self._input(live, task)
        try:
            return attempt_manifest(
                live,
                task,
                attempt,
                agent=agent,
                input=input,
                owner_uid=owner_uid,
                gateway_url=self._context.gateway_url,
                gateway_ca=self._context.gateway_ca(),
                audience=self._context.audience,
            )
        except PodTemplateError as error:
            raise InvalidObject(str(error)) from error
