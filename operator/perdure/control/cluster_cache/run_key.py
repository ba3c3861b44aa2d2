"""The key of the run that an object belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from perdure.api import GROUP
from perdure.domain.kube_objects import OwnerReference, controlling_owner
from perdure.domain.names import LABEL_ATTEMPT, LABEL_MANAGED_BY, LABEL_TASK, LABEL_WORKFLOW, MANAGED_BY
from perdure.domain.records import AGENT_TASK, WORKFLOW

#: Schedules are no runs, but share the work queue with them.
SCHEDULE = "WorkflowSchedule"


class RunKey(NamedTuple):
    """Kind, namespace and name of the object that a person applied: an entry of the work queue."""

    kind: str
    namespace: str
    name: str


def _is_workflow(reference: OwnerReference) -> bool:
    return reference.get("kind") == WORKFLOW and str(reference.get("apiVersion")).startswith(f"{GROUP}/")


def run_key(kind: str, obj: Mapping[str, Any]) -> RunKey | None:
    """The run that an object is, or belongs to; None if the object is not of Perdure."""
    metadata = obj["metadata"]
    namespace = metadata["namespace"]
    labels: Mapping[str, str] = metadata.get("labels") or {}
    if kind in (WORKFLOW, SCHEDULE):
        return RunKey(kind, namespace, metadata["name"])
    if kind == AGENT_TASK:
        # Users may set any label. Only a controlling owner makes a task part of a run.
        owner = controlling_owner(obj)
        if owner is not None and _is_workflow(owner):
            return RunKey(WORKFLOW, namespace, owner["name"])
        if owner is None and is_orphan(kind, obj):
            return RunKey(WORKFLOW, namespace, labels[LABEL_WORKFLOW])
        return RunKey(AGENT_TASK, namespace, metadata["name"])
    if LABEL_WORKFLOW in labels:
        return RunKey(WORKFLOW, namespace, labels[LABEL_WORKFLOW])
    if LABEL_TASK in labels:
        return RunKey(AGENT_TASK, namespace, labels[LABEL_TASK])
    return None


def is_orphan(kind: str, obj: Mapping[str, Any]) -> bool:
    """Whether a run created an AgentTask or Workflow that has no owner any more.

    Such an object is never a run by itself, or a second pod of its task would start. The labels that a run
    gives its objects name the object itself, so that a copy which a person applies under another name is a
    run.
    """
    metadata = obj["metadata"]
    labels: Mapping[str, str] = metadata.get("labels") or {}
    if controlling_owner(obj) is not None or labels.get(LABEL_MANAGED_BY) != MANAGED_BY:
        return False
    if LABEL_WORKFLOW not in labels or LABEL_TASK not in labels:
        return False
    name, task = metadata["name"], labels[LABEL_TASK]
    if kind == AGENT_TASK:
        return bool(name == task)
    return bool(name == f"{task}-{labels.get(LABEL_ATTEMPT)}")


def owner_key(obj: Mapping[str, Any]) -> tuple[RunKey, str] | None:
    """The Workflow or schedule that created a Workflow, with its uid; None if a person did."""
    metadata = obj["metadata"]
    owner = controlling_owner(obj)
    if owner is None or not str(owner.get("apiVersion")).startswith(f"{GROUP}/"):
        return None
    if owner.get("kind") not in (WORKFLOW, SCHEDULE):
        return None
    return RunKey(owner["kind"], metadata["namespace"], owner["name"]), owner["uid"]
