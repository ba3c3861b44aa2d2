"""Doing what was decided: an AgentTask and a pod for every open attempt.

What to do follows from the ledger and names are deterministic, so every action can be repeated: one that was
lost in a crash is done by the next pass, and one that was done before is met as AlreadyExists and checked to
be our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import structlog

from perdure.api import API_VERSION
from perdure.api.workflow import MAX_INPUT_BYTES
from perdure.control.live import LiveRun
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.store import POD, Store
from perdure.domain.draft import Draft
from perdure.domain.names import pod_labels, task_labels
from perdure.domain.observed import Refusal
from perdure.domain.phases import Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, AttemptRecord, TaskKey, TaskRecord
from perdure.domain.scope import render_agent
from perdure.domain.steps import names_of_task
from perdure.domain.templating import compact
from perdure.kube.errors import ApiError
from perdure.kube.pods import PodEnvironment, build_pod

#: Creations of one run that are under way at once.
CONCURRENCY = 16
#: Time until a creation that was refused for a quota is tried again.
HELD_UP_RETRY = timedelta(seconds=5)

_log = structlog.get_logger(__name__)


class NameConflict(Exception):
    """An object of the name we need exists and is not ours."""


class StillLeaving(Exception):
    """An object of the name we need exists, but not for long: it is being deleted, or its owner was."""


class Actor:
    """Makes and unmakes the objects of runs."""

    def __init__(
        self, *, store: Store, kube: KubePort, ledger: LedgerPort, gateway_url: str, audience: str
    ) -> None:
        self._store = store
        self._kube = kube
        self._ledger = ledger
        self._gateway_url = gateway_url
        self._audience = audience

    async def ensure(self, live: LiveRun, keys: Iterable[TaskKey], *, epoch: int) -> None:
        """See to it that the open attempts of these tasks have their pods.

        Refusals and delays by the API server are noted in `live`; what may heal by itself at once is raised.
        """
        wanted = [key for key in keys if self._wants_pod(live, key)]
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

    async def delete_pod(self, live: LiveRun, name: str, uid: str) -> None:
        """Stop a pod whose attempt is closed."""
        await self._kube.delete(POD, live.key.namespace, name, uid=uid)

    def _wants_pod(self, live: LiveRun, key: TaskKey) -> bool:
        attempt = live.view.attempts.get(key)
        return attempt is not None and attempt.closed_at is None and attempt.pod_uid is None

    async def _ensure_one(self, live: LiveRun, key: TaskKey, epoch: int) -> None:
        attempt, task = live.view.attempts[key], live.view.tasks[key]
        live.held_up.pop(key, None)
        try:
            owner_uid = await self._ensure_task(live, task)
            pod_uid = await self._ensure_pod(live, task, attempt, owner_uid)
        except StillLeaving as error:
            live.held_up[key] = (Reason.STARTING, str(error))
            return
        except NameConflict as error:
            live.refusals[key] = Refusal(
                attempt=attempt.number, reason=Reason.NAME_CONFLICT, message=str(error)
            )
            return
        except ApiError as error:
            self._note_refusal(live, key, attempt, error)
            return
        await self._ledger.record_pod(live.uid, attempt, pod_uid=pod_uid, epoch=epoch)
        live.view.note_pod(key, pod_uid)

    def _note_refusal(self, live: LiveRun, key: TaskKey, attempt: AttemptRecord, error: ApiError) -> None:
        """Tell apart what never heals, what heals in its own time, and what is to be tried again now."""
        if error.status == 403 and "quota" in error.message:
            live.held_up[key] = (Reason.QUOTA, error.message)
        elif error.status == 403 and "error looking up service account" in error.message:
            # Manifests may arrive in any order; the API server waits for it only for a moment.
            live.held_up[key] = (Reason.STARTING, error.message)
        elif error.status in (400, 403, 422) and "being terminated" not in error.message:
            live.refusals[key] = Refusal(
                attempt=attempt.number,
                reason=Reason.INVALID_CONFIG,
                message=f"the API server refuses the pod: {error.message}",
            )
        else:
            raise error

    async def _ensure_task(self, live: LiveRun, task: TaskRecord) -> str:
        """The uid of the task's AgentTask object, made if need be."""
        if live.key.kind == AGENT_TASK:
            return live.uid
        children = self._store.of(live.key)
        if task.name in children.tasks:
            return children.tasks[task.name].uid
        namespace = live.key.namespace
        try:
            made = await self._kube.create(AGENT_TASK, namespace, self._task_body(live, task))
        except ApiError as error:
            if not error.conflict:
                raise
            made = await self._kube.get(AGENT_TASK, namespace, task.name)
            _check_owner(made, live.uid, live.key.name, f"AgentTask {task.name!r}")
        self._store.apply(AGENT_TASK, made)
        return str(made["metadata"]["uid"])

    async def _ensure_pod(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> str:
        """The uid of the attempt's pod, made if need be."""
        namespace = live.key.namespace
        known = self._store.of(live.key).pods.get(attempt.pod_name)
        if known is not None and known.owner_uid == owner_uid:
            return known.uid
        try:
            made = await self._kube.create(POD, namespace, self._pod_body(live, task, attempt, owner_uid))
        except ApiError as error:
            if not error.conflict:
                raise
            made = await self._kube.get(POD, namespace, attempt.pod_name)
            _check_owner(made, owner_uid, task.name, f"pod {attempt.pod_name!r}")
        self._store.apply(POD, made)
        return str(made["metadata"]["uid"])

    def _agent(self, live: LiveRun, key: TaskKey) -> dict[str, Any]:
        step = live.view.plan.steps[key.step]
        draft = Draft(live.view, live.view.run.created_at)
        return render_agent(step, names_of_task(draft, step, key.index))

    def _task_body(self, live: LiveRun, task: TaskRecord) -> dict[str, Any]:
        step = live.view.plan.steps[task.key.step]
        return {
            "apiVersion": API_VERSION,
            "kind": AGENT_TASK,
            "metadata": {
                "name": task.name,
                "labels": task_labels(workflow=live.key.name, task=task.name, key=task.key, uid=live.uid),
                "ownerReferences": [_owner(WORKFLOW, live.key.name, live.uid)],
            },
            "spec": {
                "agent": self._agent(live, task.key),
                # For people to see; agents get theirs from the ledger if it is too large for an object.
                **({"input": task.input} if len(compact(task.input)) <= MAX_INPUT_BYTES else {}),
                "retry": {"limit": step.retry_limit},
            },
        }

    def _pod_body(
        self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord, owner_uid: str
    ) -> dict[str, Any]:
        workflow = live.key.name if live.key.kind == WORKFLOW else None
        labels = task_labels(workflow=workflow, task=task.name, key=task.key, uid=live.uid)
        return build_pod(
            task_name=task.name,
            pod_name=attempt.pod_name,
            namespace=live.key.namespace,
            owner=_owner(AGENT_TASK, task.name, owner_uid),
            labels=pod_labels(labels, attempt.number),
            agent=self._agent(live, task.key),
            input=task.input,
            env=PodEnvironment(
                gateway_url=self._gateway_url,
                workflow=live.key.name,
                step=task.key.step,
                attempt=attempt.number,
                index=task.key.index,
            ),
            audience=self._audience,
        )


def _owner(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _check_owner(obj: dict[str, Any], uid: str, name: str, what: str) -> None:
    """Raise unless the object with this uid and name owns `obj`."""
    owners = obj["metadata"].get("ownerReferences") or ()
    if not any(owner.get("uid") == uid for owner in owners):
        # A namesake of our owner was deleted a moment ago, and the garbage collector comes after it.
        orphaned = any(owner.get("controller") and owner.get("name") == name for owner in owners)
        if orphaned or "deletionTimestamp" in obj["metadata"]:
            raise StillLeaving(f"{what} of an earlier object of this name is still being deleted")
        raise NameConflict(f"{what} exists and is not ours; remove it, then apply the workflow again")
