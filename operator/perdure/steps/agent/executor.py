"""What an `agent` step does in the cluster: an AgentTask for each task, a Pod or a Job for each attempt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import POD
from perdure.control.live_run import LiveRun
from perdure.control.runs.deletion import JOB, Deletion, deletion_of_pod
from perdure.control.runs.executor import ExecutorContext, Findings
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.records import AGENT_TASK, WORKFLOW, AttemptRecord, TaskKey, TaskRecord
from perdure.steps.agent.attempt_pods import AttemptPods, made_job
from perdure.steps.agent.manifests import is_job
from perdure.steps.agent.pod_creation import PodCreation


class AgentExecutor:
    """Creates, finds and deletes pods; see `control.runs.executor.Executor`."""

    def __init__(self, context: ExecutorContext) -> None:
        self._store = context.store
        self._kube = context.kube
        self._pods = AttemptPods(store=context.store, kube=context.kube)
        self._creation = PodCreation(context, self._pods)

    def noun(self, step: PlannedStep) -> str:
        return JOB if is_job(step) else "pod"

    async def prune(self, live: LiveRun) -> None:
        """Delete Jobs whose attempt was closed before they had a pod: it might still come."""
        for key, made in list(live.objects.jobs.items()):
            attempt = live.view.attempts[key]
            if attempt.number == made.attempt and attempt.closed_at is None:
                continue
            if made.name not in self._store.of(live.key).pods:
                await self._kube.delete(JOB, live.key.namespace, made.name, uid=made.uid)
            del live.objects.jobs[key]
        surplus = self._store.of(live.key).surplus
        while surplus:
            # A Job creates a second pod if its first was taken from it, by other labels for example.
            pod = surplus[next(iter(surplus))]
            if self._is_surplus(live, pod):
                await self._kube.delete(POD, live.key.namespace, pod.pod_name, uid=pod.uid)
            del surplus[pod.pod_name]

    def _is_surplus(self, live: LiveRun, pod: PodFacts) -> bool:
        key = live.objects.pod_names.get(pod.name)
        attempt = None if key is None else live.view.attempts.get(key)
        known = None if attempt is None else self._pods.known(live, attempt)
        return known is not None and known.uid != pod.uid

    def is_pending(self, live: LiveRun, attempt: AttemptRecord) -> bool:
        return made_job(live, attempt) is not None

    async def ensure(self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord) -> str | None:
        return await self._creation.ensure(live, task, attempt)

    async def stop(self, live: LiveRun, attempt: AttemptRecord) -> bool:
        live.objects.terminating.add(attempt.key)
        pod = self._pods.known(live, attempt)
        if pod is not None:
            if not pod.ended and pod.deletion is None:
                deletion = deletion_of_pod(pod)
                await self._kube.delete(deletion.kind, live.key.namespace, deletion.name, uid=deletion.uid)
            return False
        made = made_job(live, attempt)
        if made is not None:
            await self._kube.delete(JOB, live.key.namespace, made.name, uid=made.uid)
        return True

    async def find(
        self,
        live: LiveRun,
        attempts: Sequence[AttemptRecord],
        now: datetime,
        *,
        overdue: set[TaskKey],
        findings: Findings,
    ) -> None:
        for attempt in attempts:
            found = await self._pods.find(live, attempt, now, ask=attempt.key in overdue)
            if found.gone:
                findings.gone.add(attempt.key)
            elif found.pod is not None:
                findings.pods[attempt.key] = found.pod
            if attempt.stopping is not None or (found.pod is not None and found.pod.deletion is not None):
                live.objects.terminating.add(attempt.key)

    def leftover(self, live: LiveRun, task: TaskRecord) -> Deletion | None:
        if live.key.kind != WORKFLOW:
            return None
        there = self._store.of(live.key).tasks.get(task.name)
        return None if there is None else Deletion(AGENT_TASK, task.name, there.uid)

    def is_idle(self, live: LiveRun, key: TaskKey, leftover: Deletion) -> bool:
        """The pods of a task are deleted with its AgentTask."""
        attempt = live.view.attempts.get(key)
        pod = None if attempt is None else self._store.of(live.key).pods.get(attempt.pod_name)
        return pod is None or pod.ended

    def follower(self, live: LiveRun, attempt: AttemptRecord) -> RunKey | None:
        return None
