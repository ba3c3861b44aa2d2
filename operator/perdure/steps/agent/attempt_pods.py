"""Finding the pod of an attempt: in the store, and where that is not enough, at the API server.

A pod that we made has the attempt's name. That of a Job has a name of Kubernetes' making and is found by its
owner; it may come late, and so long only the Job itself can say whether the attempt is still alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from perdure.control.cluster_cache.store import POD, Store
from perdure.control.live_run import CreatedJob, LiveRun
from perdure.control.ports import KubePort
from perdure.control.runs.deletion import JOB
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.kube_objects import is_controlled_by
from perdure.domain.names import LABEL_ATTEMPT, LABEL_TASK
from perdure.domain.phases import Reason
from perdure.domain.records import AGENT_TASK, AttemptRecord
from perdure.steps.agent.manifests import runs_as_job

#: How long a Job may be without a pod before its status says where to find the cause.
PODLESS = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The pod of an attempt, as far as it is known."""

    pod: PodFacts | None = None
    #: The attempt's object was deleted; the API server itself has said so.
    gone: bool = False


class AttemptPods:
    """Finds pods. A pod is ours only if an object that we created owns it."""

    def __init__(self, *, store: Store, kube: KubePort) -> None:
        self._store = store
        self._kube = kube

    def known(self, live: LiveRun, attempt: AttemptRecord) -> PodFacts | None:
        """The attempt's pod as the store has it."""
        pod = self._store.of(live.key).pods.get(attempt.pod_name)
        if pod is None:
            return None
        if attempt.pod_uid is not None:
            return pod if pod.uid == attempt.pod_uid else None
        if runs_as_job(live, attempt.key):
            made = made_job(live, attempt)
            return pod if made is not None and pod.owner_uid == made.uid else None
        owner = self.task_uid(live, attempt)
        return pod if owner in (None, pod.owner_uid) else None

    def task_uid(self, live: LiveRun, attempt: AttemptRecord) -> str | None:
        """Uid of the AgentTask of an attempt; None if the store does not have it (yet)."""
        if live.key.kind == AGENT_TASK:
            return live.uid
        task = self._store.of(live.key).tasks.get(live.view.tasks[attempt.key].name)
        return None if task is None else task.uid

    async def find(self, live: LiveRun, attempt: AttemptRecord, now: datetime, *, ask: bool) -> Found:
        """The attempt's pod. The API server is asked if `ask`, and before anything is said to be gone.

        Raises ApiError.
        """
        if runs_as_job(live, attempt.key) and attempt.pod_uid is None:
            return await self._find_of_job(live, attempt, now, ask=ask)
        pod = self.known(live, attempt)
        # What is stopping and was never recorded may have been made all the same.
        expected = attempt.pod_uid is not None or attempt.stopping is not None
        if ask or (pod is None and expected):
            await (self._list_pods if runs_as_job(live, attempt.key) else self._get_pod)(live, attempt)
            pod = self.known(live, attempt)
        return Found(pod=pod, gone=pod is None and expected)

    async def _find_of_job(self, live: LiveRun, attempt: AttemptRecord, now: datetime, *, ask: bool) -> Found:
        """As `find`, for a Job whose pod has not been recorded."""
        pod, made = self.known(live, attempt), made_job(live, attempt)
        seen = attempt.pod_name in self._store.of(live.key).pods
        expected = made is not None or attempt.stopping is not None
        if not (ask or (pod is None and (seen or expected))):
            return Found(pod=pod)
        job = await self._kube.find(JOB, live.key.namespace, attempt.pod_name)
        if job is None or not self._is_ours(live, attempt, job):
            live.objects.jobs.pop(attempt.key, None)
            return Found(gone=expected)
        live.objects.jobs[attempt.key] = job_of(attempt, job)
        await self._list_pods(live, attempt)
        pod = self.known(live, attempt)
        if pod is None and _makes_no_pod(job):
            live.objects.jobs.pop(attempt.key, None)
            return Found(gone=True)
        if pod is None and now - attempt.created_at > PODLESS:
            name = attempt.pod_name
            text = f"Job {name} has no pod yet; kubectl describe job {name} shows why"
            live.objects.blocked[attempt.key] = (Reason.STARTING, text)
        return Found(pod=pod)

    def _is_ours(self, live: LiveRun, attempt: AttemptRecord, job: Mapping[str, Any]) -> bool:
        made = made_job(live, attempt)
        if made is not None:
            return bool(job["metadata"]["uid"] == made.uid)
        uid = self.task_uid(live, attempt)
        return uid is not None and is_controlled_by(job, uid)

    async def _get_pod(self, live: LiveRun, attempt: AttemptRecord) -> None:
        before = self.known(live, attempt)
        there = await self._kube.find(POD, live.key.namespace, attempt.pod_name)
        if there is None:
            self._forget(live, before)
        else:
            self._store.apply(POD, there)

    async def _list_pods(self, live: LiveRun, attempt: AttemptRecord) -> None:
        before = self.known(live, attempt)
        selector = f"{LABEL_TASK}={live.view.tasks[attempt.key].name},{LABEL_ATTEMPT}={attempt.number}"
        pods, _ = await self._kube.list(POD, namespace=live.key.namespace, label_selector=selector)
        if before is not None and all(pod["metadata"]["uid"] != before.uid for pod in pods):
            self._forget(live, before)
        for pod in pods:
            self._store.apply(POD, pod)

    def _forget(self, live: LiveRun, known: PodFacts | None) -> None:
        """Remove from the store what the API server does not have any more.

        Only what was known before it was asked: its watch may report a new pod before the answer comes.
        """
        if known is not None:
            self._store.remove(POD, live.key.namespace, known.pod_name, uid=known.uid)


def made_job(live: LiveRun, attempt: AttemptRecord) -> CreatedJob | None:
    """The attempt's Job, if it is known to have been made and its pod is not recorded."""
    made = live.objects.jobs.get(attempt.key)
    return made if made is not None and made.attempt == attempt.number else None


def job_of(attempt: AttemptRecord, job: Mapping[str, Any]) -> CreatedJob:
    """What is remembered of a Job object."""
    return CreatedJob(attempt.number, job["metadata"]["name"], job["metadata"]["uid"])


def _makes_no_pod(job: Mapping[str, Any]) -> bool:
    """True if a Job will never have a pod any more: if it has none now, it was deleted."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    ended = any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)
    return ended or "deletionTimestamp" in job["metadata"]
