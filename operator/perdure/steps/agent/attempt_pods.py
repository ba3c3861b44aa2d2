"""Finding the pod of an attempt: in the store, and where that is not enough, at the API server.

A pod that the operator created has the attempt's name, and is found by name, owner and uid. Labels are for
people and for watches: a pod whose labels were changed stays the attempt's, and is followed by requests,
since no watch reports the pod any longer. The pod of a Job has a generated name and is found by its owner;
until it has come, only the Job itself can say whether the attempt is still alive.
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
from perdure.domain.kube_objects import controlling_owner, is_controlled_by
from perdure.domain.names import LABEL_ATTEMPT, LABEL_TASK
from perdure.domain.phases import Reason
from perdure.domain.records import AGENT_TASK, AttemptRecord
from perdure.steps.agent.manifests import runs_as_job

#: How long a Job may be without a pod before its status says where to find the cause.
PODLESS = timedelta(seconds=10)
#: Time between two requests for a pod that the watch does not report.
FOLLOW = timedelta(seconds=5)
#: Time between two requests for a Job that has no pod: a part of the Job's age, within these bounds.
JOB_RECHECK = timedelta(seconds=3)
LONGEST_JOB_RECHECK = timedelta(seconds=60)
#: Label by which the Job controller finds the pods of a Job.
LABEL_JOB_UID = "batch.kubernetes.io/controller-uid"


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
        if pod is None or not self._is_known(live, attempt, pod):
            return None
        if pod.attempt != attempt.number:
            # Its labels were changed before the operator received it for the first time.
            task = live.view.tasks[attempt.key].name
            return self._store.identify_pod(live.key, pod, attempt=attempt.number, task=task)
        return pod

    def _is_known(self, live: LiveRun, attempt: AttemptRecord, pod: PodFacts) -> bool:
        if attempt.pod_uid is not None:
            return pod.uid == attempt.pod_uid
        if runs_as_job(live, attempt.key):
            made = made_job(live, attempt)
            return made is not None and pod.owner_uid == made.uid
        return self.task_uid(live, attempt) in (None, pod.owner_uid)

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
            found = await self._find_of_job(live, attempt, now, ask=ask)
        else:
            found = await self._find_pod(live, attempt, ask=ask)
        self._recheck_later(live, attempt, found.pod, now)
        return found

    async def _find_pod(self, live: LiveRun, attempt: AttemptRecord, *, ask: bool) -> Found:
        pod = self.known(live, attempt)
        # An attempt that is stopping and whose pod was never recorded may have a pod all the same.
        expected = attempt.pod_uid is not None or attempt.stopping is not None
        if ask or (pod is None and expected):
            if not runs_as_job(live, attempt.key):
                await self._get_pod(live, attempt, attempt.pod_name)
            else:
                await self._ask_for_pod_of_job(live, attempt, pod)
            pod = self.known(live, attempt)
        return Found(pod=pod, gone=pod is None and expected)

    def _recheck_later(
        self, live: LiveRun, attempt: AttemptRecord, pod: PodFacts | None, now: datetime
    ) -> None:
        """Note when to ask the API server for the attempt again, if no watch reports its end."""
        if pod is not None and not pod.watched and not pod.agent_ended:
            live.objects.recheck[attempt.key] = now + FOLLOW
        elif pod is None and made_job(live, attempt) is not None:
            age = (now - attempt.created_at) / 4
            live.objects.recheck[attempt.key] = now + min(max(age, JOB_RECHECK), LONGEST_JOB_RECHECK)
        else:
            live.objects.recheck.pop(attempt.key, None)

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
        if pod is None and makes_no_pod(job):
            live.objects.jobs.pop(attempt.key, None)
            return Found(gone=True)
        if pod is None and is_suspended(job):
            name = attempt.pod_name
            text = f"Job {name} is suspended; it gets its pod once spec.suspend is false"
            live.objects.blocked[attempt.key] = (Reason.SUSPENDED, text)
        elif pod is None and now - attempt.created_at > PODLESS:
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

    def take(self, live: LiveRun, attempt: AttemptRecord, pod: Mapping[str, Any], *, since: int) -> None:
        """Store the attempt's own pod, as the API server has just given it; see `Store.take_pod`."""
        owner = controlling_owner(pod) or {}
        of_job = runs_as_job(live, attempt.key)
        identity = PodFacts(
            name=attempt.pod_name,
            uid=pod["metadata"]["uid"],
            task=live.view.tasks[attempt.key].name,
            owner_uid=owner.get("uid") or ("" if of_job else self.task_uid(live, attempt) or ""),
            attempt=attempt.number,
            phase="",
            generated_name=pod["metadata"]["name"] if of_job else None,
            kept=live.view.plan.pod_retention == "Always",
        )
        self._store.take_pod(live.key, pod, identity, since=since)

    async def _get_pod(self, live: LiveRun, attempt: AttemptRecord, name: str) -> None:
        """Ask for the attempt's pod by its own name."""
        before, since = self.known(live, attempt), self._store.removals
        there = await self._kube.find(POD, live.key.namespace, name)
        if there is None or (before is not None and there["metadata"]["uid"] != before.uid):
            self._forget(live, before)
        if there is None:
            return
        if self._is_attempts(live, attempt, there):
            self.take(live, attempt, there, since=since)
        else:
            self._store.apply(POD, there)

    def _is_attempts(self, live: LiveRun, attempt: AttemptRecord, pod: Mapping[str, Any]) -> bool:
        if attempt.pod_uid is not None:
            return bool(pod["metadata"]["uid"] == attempt.pod_uid)
        owner = self.task_uid(live, attempt)
        return owner is not None and is_controlled_by(pod, owner)

    async def _ask_for_pod_of_job(
        self, live: LiveRun, attempt: AttemptRecord, before: PodFacts | None
    ) -> None:
        """Ask for the pod of a Job: by its name if that is known, then by labels that are hard to lose."""
        uid = attempt.pod_uid
        name = before.pod_name if before is not None else uid and self._store.removed_name(uid)
        if name:
            await self._get_pod(live, attempt, name)
            return
        since = self._store.removals
        await self._list_pods(live, attempt)
        if self.known(live, attempt) is not None:
            return
        job = await self._kube.find(JOB, live.key.namespace, attempt.pod_name)
        if job is None:
            return
        selector = f"{LABEL_JOB_UID}={job['metadata']['uid']}"
        pods, _ = await self._kube.list(POD, namespace=live.key.namespace, label_selector=selector)
        for pod in pods:
            if pod["metadata"]["uid"] == uid:
                self.take(live, attempt, pod, since=since)

    async def _list_pods(self, live: LiveRun, attempt: AttemptRecord) -> None:
        before, since = self.known(live, attempt), self._store.removals
        selector = f"{LABEL_TASK}={live.view.tasks[attempt.key].name},{LABEL_ATTEMPT}={attempt.number}"
        pods, _ = await self._kube.list(POD, namespace=live.key.namespace, label_selector=selector)
        if before is not None and all(pod["metadata"]["uid"] != before.uid for pod in pods):
            self._forget(live, before)
        for pod in pods:
            if pod["metadata"]["uid"] == attempt.pod_uid:
                self.take(live, attempt, pod, since=since)
            else:
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


def is_suspended(job: Mapping[str, Any]) -> bool:
    """True while a Job has no pod because it is suspended."""
    return bool((job.get("spec") or {}).get("suspend")) and not makes_no_pod(job)


def is_as_created(job: Mapping[str, Any]) -> bool:
    """True if a Job creates no second pod after the end of its first (see `kube.jobs.build_job`)."""
    spec = job.get("spec") or {}
    return (
        spec.get("backoffLimit") == 0
        and spec.get("completions", 1) == 1
        and spec.get("parallelism", 1) == 1
        and not spec.get("suspend")
    )


def makes_no_pod(job: Mapping[str, Any]) -> bool:
    """True if a Job will never have a pod any more: if it has none now, it was deleted."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    ended = any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)
    return ended or "deletionTimestamp" in job["metadata"]
