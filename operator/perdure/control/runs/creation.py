"""Idempotent creation of an owned object: created, or found as created before, or known not to be ours."""

from __future__ import annotations

from typing import Any, NamedTuple

from perdure.api import API_VERSION
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort
from perdure.domain.expressions.templating import compact
from perdure.domain.kube_objects import OwnerReference, controller_reference, controlling_owner
from perdure.domain.names import task_labels
from perdure.domain.phases import Reason
from perdure.domain.records import WORKFLOW, TaskRecord
from perdure.kube.errors import ApiError

#: Bytes of an object's JSON when it is created. etcd refuses 1.5 MiB; defaults, managed fields and what
#: webhooks add come on top.
MAX_OBJECT_BYTES = 1280 * 1024


class NameConflict(Exception):
    """An object of the name we need exists and is not ours."""


class StillLeaving(Exception):
    """What has to leave first is still there: an object of the needed name, or the attempt before."""

    reason: Reason = Reason.STARTING


class StillSuspended(StillLeaving):
    """The Job of the attempt before is suspended, and would create another pod once it is resumed."""

    reason = Reason.SUSPENDED


class Created(NamedTuple):
    """An object as `create_owned` gives it."""

    obj: dict[str, Any]
    #: Whether an earlier request had created the object: its state is not that of a new one.
    existed: bool


class InvalidObject(Exception):
    """What the manifest asks for can never be created."""


async def create_owned(
    kube: KubePort, kind: str, namespace: str, body: dict[str, Any], *, owner: tuple[str, str]
) -> Created:
    """Create an object, or get the one that was created before.

    `owner` is the uid and name of the owner that the object must have. Raises InvalidObject, NameConflict,
    StillLeaving and ApiError.
    """
    name = body["metadata"]["name"]
    size = len(compact(body))
    if size > MAX_OBJECT_BYTES:
        raise InvalidObject(
            f"the {kind} would have {size} bytes of JSON; the limit is {MAX_OBJECT_BYTES}: "
            "shorten what the manifest and its podTemplate say"
        )
    try:
        return Created(await kube.create(kind, namespace, body, brief=True), existed=False)
    except ApiError as error:
        if not error.already_exists:
            raise
    created = await kube.get(kind, namespace, name)
    _check_owner(created, *owner, f"{kind} {name!r}")
    return Created(created, existed=True)


def owner_reference(kind: str, name: str, uid: str) -> OwnerReference:
    """The reference to an owner of one of Perdure's own kinds."""
    return controller_reference(api_version=API_VERSION, kind=kind, name=name, uid=uid)


def labels_of_task(live: LiveRun, task: TaskRecord) -> dict[str, str]:
    """The labels of every object of a task."""
    workflow = live.key.name if live.key.kind == WORKFLOW else None
    return task_labels(workflow=workflow, task=task.name, key=task.key, uid=live.uid)


def _check_owner(obj: dict[str, Any], uid: str, name: str, what: str) -> None:
    """Raise unless the object with this uid and name owns `obj`."""
    owners = obj["metadata"].get("ownerReferences") or ()
    if not any(owner.get("uid") == uid for owner in owners):
        # An object of our owner's name was deleted a moment ago, and the garbage collector comes after it.
        controller = controlling_owner(obj)
        orphaned = controller is not None and controller.get("name") == name
        if orphaned or "deletionTimestamp" in obj["metadata"]:
            raise StillLeaving(f"{what} of an earlier object of this name is still being deleted")
        raise NameConflict(f"{what} exists and is not ours; remove it, then apply the workflow again")
