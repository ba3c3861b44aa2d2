"""Doing what was decided: an AgentTask and a pod, or a child Workflow, for every open attempt.

What to do follows from the ledger and names are deterministic, so every action can be repeated: one that was
lost in a crash is done by the next pass, and one that was done before is met as AlreadyExists and checked to
be our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from perdure.api.step import MAX_WORKFLOW_DEPTH
from perdure.control.cluster_cache.store import POD, Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.runs.attempt_pods import AttemptPods, job_of, made_job
from perdure.control.runs.manifests import (
    JOB,
    attempt_manifest,
    child_manifest,
    runs_as_job,
    task_manifest,
)
from perdure.domain.engine.observed import Refusal
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.phases import Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, AttemptRecord, TaskKey, TaskRecord
from perdure.kube.errors import ApiError
from perdure.kube.podtemplate import PodTemplateError

#: Creations of one run that are under way at once.
CONCURRENCY = 16
#: Time until a creation that was forbidden is tried again.
HELD_UP_RETRY = timedelta(seconds=5)


class NameConflict(Exception):
    """An object of the name we need exists and is not ours."""


class StillLeaving(Exception):
    """An object of the name we need exists, but not for long: it is being deleted, or its owner was."""


class TooDeep(Exception):
    """A child Workflow would be one too many within another."""


class Actuator:
    """Makes and unmakes the objects of runs."""

    def __init__(
        self, *, store: Store, kube: KubePort, ledger: LedgerPort, gateway_url: str, audience: str
    ) -> None:
        self._store = store
        self._kube = kube
        self._ledger = ledger
        self._gateway_url = gateway_url
        self._audience = audience
        self._pods = AttemptPods(store=store, kube=kube)

    async def ensure(self, live: LiveRun, keys: Iterable[TaskKey], *, epoch: int) -> None:
        """See to it that the open attempts of these tasks have their pods, Jobs or child Workflows.

        Refusals and delays by the API server are noted in `live`; what may heal by itself at once is raised.
        """
        await self._drop_jobs(live)
        wanted = [key for key in keys if self._wants_object(live, key)]
        if not wanted:
            return
        if len(wanted) == 1:
            await self._ensure_one(live, wanted[0], epoch)
            return
        limit = asyncio.Semaphore(CONCURRENCY)

        async def ensure_one(key: TaskKey) -> None:
            async with limit:
                await self._ensure_one(live, key, epoch)

        # All are tried before the first error is raised, so that one bad task holds up none of the others.
        results = await asyncio.gather(*(ensure_one(key) for key in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def remove(self, namespace: str, pod: PodFacts) -> None:
        """Delete what was made for an attempt, in the background: its pod, or the Job with its pod."""
        if pod.of_job:
            await self._kube.delete(JOB, namespace, pod.name, uid=pod.owner_uid)
        else:
            await self._kube.delete(POD, namespace, pod.name, uid=pod.uid)

    async def stop(self, live: LiveRun, key: TaskKey) -> bool:
        """Ask the agent of an attempt that is stopping to leave, within the grace of its pod.

        Returns whether to look again at once: there is no pod whose end an event would tell of.
        """
        attempt = live.view.attempts.get(key)
        if (
            attempt is None
            or attempt.closed_at is not None
            or attempt.stopping is None
            or _is_child(live, key)
        ):
            return False
        live.leaving.add(key)
        pod = self._pods.known(live, attempt)
        if pod is not None:
            if not pod.ended and pod.deletion is None:
                await self.remove(live.key.namespace, pod)
            return False
        made = made_job(live, attempt)
        if made is not None:
            await self._kube.delete(JOB, live.key.namespace, made.name, uid=made.uid)
        return True

    def _wants_object(self, live: LiveRun, key: TaskKey) -> bool:
        attempt = live.view.attempts.get(key)
        return (
            attempt is not None
            and attempt.closed_at is None
            and attempt.stopping is None
            and attempt.pod_uid is None
        )

    async def _ensure_one(self, live: LiveRun, key: TaskKey, epoch: int) -> None:
        attempt, task = live.view.attempts[key], live.view.tasks[key]
        held_up = live.held_up.pop(key, None)
        waits_for_job = made_job(live, attempt) is not None
        try:
            uid = await self._ensure_object(live, task, attempt)
        except StillLeaving as error:
            live.held_up[key] = (Reason.STARTING, str(error))
        except NameConflict as error:
            _refuse(live, attempt, Reason.NAME_CONFLICT, str(error))
        except (PodTemplateError, TooDeep) as error:
            _refuse(live, attempt, Reason.INVALID_CONFIG, str(error))
        except ApiError as error:
            _note_refusal(live, attempt, error)
        else:
            if uid is not None:
                await self._ledger.record_pod(live.uid, attempt, pod_uid=uid, epoch=epoch)
                live.view.note_pod(key, uid)
                live.jobs.pop(key, None)
            elif held_up is not None and waits_for_job:
                live.held_up[key] = held_up

    async def _ensure_object(self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord) -> str | None:
        """The uid of the attempt's pod or child Workflow; None if it is a Job's, and still to come."""
        if _is_child(live, task.key):
            return await self._ensure_child(live, task, attempt)
        owner_uid = await self._ensure_task(live, task)
        if runs_as_job(live, task.key):
            return await self._ensure_job(live, task, attempt, owner_uid)
        return await self._ensure_pod(live, task, attempt, owner_uid)

    async def _ensure_task(self, live: LiveRun, task: TaskRecord) -> str:
        """The uid of the task's AgentTask object, made if need be."""
        if live.key.kind == AGENT_TASK:
            return live.uid
        children = self._store.of(live.key)
        if task.name in children.tasks:
            return children.tasks[task.name].uid
        body = task_manifest(live, task)
        made = await self._make(AGENT_TASK, live, body, owner=(live.uid, live.key.name))
        self._store.apply_created(AGENT_TASK, made)
        return str(made["metadata"]["uid"])

    async def _ensure_pod(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> str:
        """The uid of the attempt's pod, made if need be."""
        known = self._store.of(live.key).pods.get(attempt.pod_name)
        if known is not None and known.owner_uid == owner_uid:
            return known.uid
        body = self._attempt_manifest(live, task, attempt, owner_uid)
        made = await self._make(POD, live, body, owner=(owner_uid, task.name))
        self._store.apply_created(POD, made)
        return str(made["metadata"]["uid"])

    async def _ensure_job(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> str | None:
        """The uid of the pod of the attempt's Job, made if need be; None while it has no pod."""
        if made_job(live, attempt) is None:
            body = self._attempt_manifest(live, task, attempt, owner_uid)
            made = await self._make(JOB, live, body, owner=(owner_uid, task.name))
            live.jobs[task.key] = job_of(attempt, made)
        pod = self._pods.known(live, attempt)
        return None if pod is None else pod.uid

    async def _ensure_child(self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord) -> str:
        """The uid of the attempt's Workflow, made if need be.

        It is not put into the store: the event of its coming is what has it accepted.
        """
        root = self._store.roots.get(live.key)
        depth = 1 + (0 if root is None else root.depth)
        if depth > MAX_WORKFLOW_DEPTH:
            raise TooDeep(
                f"this would be a child at depth {depth}, and at most {MAX_WORKFLOW_DEPTH} is allowed; "
                "does a WorkflowTemplate refer to itself?"
            )
        body = child_manifest(live, task, attempt, depth=depth)
        made = await self._make(WORKFLOW, live, body, owner=(live.uid, live.key.name))
        return str(made["metadata"]["uid"])

    async def _make(
        self, kind: str, live: LiveRun, body: dict[str, Any], *, owner: tuple[str, str]
    ) -> dict[str, Any]:
        """Create an object, or get the one that was created before.

        `owner` is the uid and name of what it must be owned by. Raises NameConflict and StillLeaving.
        """
        name = body["metadata"]["name"]
        try:
            return await self._kube.create(kind, live.key.namespace, body, brief=True)
        except ApiError as error:
            if not error.conflict:
                raise
        made = await self._kube.get(kind, live.key.namespace, name)
        _check_owner(made, *owner, f"{kind} {name!r}")
        return made

    def _attempt_manifest(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> dict[str, Any]:
        return attempt_manifest(
            live,
            task,
            attempt,
            owner_uid=owner_uid,
            gateway_url=self._gateway_url,
            audience=self._audience,
        )

    async def _drop_jobs(self, live: LiveRun) -> None:
        """Delete Jobs whose attempt was closed before they had a pod: it might still come."""
        for key, made in list(live.jobs.items()):
            attempt = live.view.attempts[key]
            if attempt.number == made.attempt and attempt.closed_at is None:
                continue
            if made.name not in self._store.of(live.key).pods:
                await self._kube.delete(JOB, live.key.namespace, made.name, uid=made.uid)
            del live.jobs[key]


def _is_child(live: LiveRun, key: TaskKey) -> bool:
    return live.view.plan.steps[key.step].kind == "workflow"


def _refuse(live: LiveRun, attempt: AttemptRecord, reason: Reason, message: str) -> None:
    live.refusals[attempt.key] = Refusal(attempt=attempt.number, reason=reason, message=message)


def _note_refusal(live: LiveRun, attempt: AttemptRecord, error: ApiError) -> None:
    """Tell apart what never heals, what heals in its own time, and what is to be tried again now."""
    key = attempt.key
    what = "child Workflow" if _is_child(live, key) else JOB if runs_as_job(live, key) else "pod"
    refused = f"the API server refuses the {what}: {error.message}"
    if "being terminated" in error.message:
        raise error
    if error.status == 403 and "quota" in error.message:
        live.held_up[key] = (Reason.QUOTA, error.message)
    elif error.status == 403:
        # Nothing that is forbidden need stay so: a ServiceAccount that is applied after us, a role, a policy.
        # And an API server that has just started forbids what it has not read the roles for.
        live.held_up[key] = (Reason.STARTING, refused)
    elif error.status in (400, 413, 422):
        _refuse(live, attempt, Reason.INVALID_CONFIG, refused)
    else:
        raise error


def _check_owner(obj: dict[str, Any], uid: str, name: str, what: str) -> None:
    """Raise unless the object with this uid and name owns `obj`."""
    owners = obj["metadata"].get("ownerReferences") or ()
    if not any(owner.get("uid") == uid for owner in owners):
        # A namesake of our owner was deleted a moment ago, and the garbage collector comes after it.
        orphaned = any(owner.get("controller") and owner.get("name") == name for owner in owners)
        if orphaned or "deletionTimestamp" in obj["metadata"]:
            raise StillLeaving(f"{what} of an earlier object of this name is still being deleted")
        raise NameConflict(f"{what} exists and is not ours; remove it, then apply the workflow again")
