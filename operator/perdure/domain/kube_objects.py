"""Kubernetes objects as plain JSON: types of the fields that Perdure reads, and ownership.

The types follow kopf's: `TypedDict` without totality, since the API server omits what is empty. Nothing is
validated. A field that people can write, such as a label, may hold any text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class OwnerReference(TypedDict, total=False):
    """An entry of `metadata.ownerReferences`."""

    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: bool
    blockOwnerDeletion: bool


class ObjectMeta(TypedDict, total=False):
    """`metadata` of any object."""

    name: str
    namespace: str
    uid: str
    resourceVersion: str
    generation: int
    creationTimestamp: str
    deletionTimestamp: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    ownerReferences: Sequence[OwnerReference]


class Condition(TypedDict, total=False):
    """An entry of `status.conditions`."""

    type: str
    status: str
    reason: str
    message: str


class ContainerRunning(TypedDict, total=False):
    startedAt: str


class ContainerWaiting(TypedDict, total=False):
    reason: str
    message: str


class ContainerTerminated(TypedDict, total=False):
    exitCode: int
    reason: str
    message: str
    startedAt: str
    finishedAt: str


class ContainerState(TypedDict, total=False):
    """One of the three, apart from a moment in which none is set."""

    running: ContainerRunning
    waiting: ContainerWaiting
    terminated: ContainerTerminated


class ContainerStatus(TypedDict, total=False):
    name: str
    state: ContainerState
    #: How the container ended before it was restarted.
    lastState: ContainerState
    #: Whether a sidecar has passed its startup probe.
    started: bool


class PodStatus(TypedDict, total=False):
    """`status` of a pod."""

    phase: str
    reason: str
    message: str
    conditions: Sequence[Condition]
    containerStatuses: Sequence[ContainerStatus]
    initContainerStatuses: Sequence[ContainerStatus]


def controller_reference(*, api_version: str, kind: str, name: str, uid: str) -> OwnerReference:
    """The reference by which the garbage collector deletes an object after its owner."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        # True would need the right to set finalizers on the owner, and would delay the owner's deletion.
        "blockOwnerDeletion": False,
    }


def controlling_owner(obj: Mapping[str, Any]) -> OwnerReference | None:
    """The one owner that controls an object, as client-go's `GetControllerOf`; None without one.

    Ownership is decided by this reference alone: everybody can write the labels of an object, and further
    owners only take part in garbage collection.
    """
    metadata: ObjectMeta = obj["metadata"]
    owners = metadata.get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def is_controlled_by(obj: Mapping[str, Any], uid: str) -> bool:
    """True if the object with this uid controls `obj`."""
    owner = controlling_owner(obj)
    return owner is not None and owner.get("uid") == uid
