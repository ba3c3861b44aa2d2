"""The creation of an attempt's pod, or of its Job, under the AgentTask that owns it."""

from __future__ import annotations

from functools import partial
from typing import Any

from perdure.control.cluster_cache.store import POD
from perdure.control.live_run import LiveRun
from perdure.control.runs.creation import InvalidObject, create_owned
from perdure.control.runs.deletion import JOB
from perdure.control.runs.evaluations import evaluated
from perdure.control.runs.executor import ExecutorContext
from perdure.domain.records import AGENT_TASK, AttemptRecord, TaskRecord
from perdure.kube.podtemplate import PodTemplateError
from perdure.steps.agent.attempt_pods import AttemptPods, job_of, made_job
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
        body = task_manifest(live, task, await self._agent(live, task))
        made = await self._create(AGENT_TASK, live, body, owner=(live.uid, live.key.name))
        self._store.apply_created(AGENT_TASK, made)
        return str(made["metadata"]["uid"])

    async def _ensure_pod(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> str:
        """The uid of the attempt's pod, created if need be."""
        known = self._store.of(live.key).pods.get(attempt.pod_name)
        if known is not None and known.owner_uid == owner_uid:
            return known.uid
        body = await self._manifest(live, task, attempt, owner_uid)
        made = await self._create(POD, live, body, owner=(owner_uid, task.name))
        self._store.apply_created(POD, made)
        return str(made["metadata"]["uid"])

    async def _ensure_job(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> str | None:
        """The uid of the pod of the attempt's Job, created if need be; None while it has no pod."""
        if made_job(live, attempt) is None:
            body = await self._manifest(live, task, attempt, owner_uid)
            made = await self._create(JOB, live, body, owner=(owner_uid, task.name))
            live.objects.jobs[task.key] = job_of(attempt, made)
        pod = self._pods.known(live, attempt)
        return None if pod is None else pod.uid

    async def _create(
        self, kind: str, live: LiveRun, body: dict[str, Any], *, owner: tuple[str, str]
    ) -> dict[str, Any]:
        return await create_owned(self._kube, kind, live.key.namespace, body, owner=owner)

    async def _agent(self, live: LiveRun, task: TaskRecord) -> dict[str, Any]:
        """The rendered agent block. Raises ExpressionError."""
        render = partial(agent_block, live, task)
        return await evaluated(self._context.evaluator, live.key.namespace, render)

    async def _manifest(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> dict[str, Any]:
        agent = await self._agent(live, task)
        try:
            return attempt_manifest(
                live,
                task,
                attempt,
                agent=agent,
                owner_uid=owner_uid,
                gateway_url=self._context.gateway_url,
                audience=self._context.audience,
            )
        except PodTemplateError as error:
            raise InvalidObject(str(error)) from error
