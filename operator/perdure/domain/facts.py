"""A pod as decisions see it: the few facts that tell how an attempt is doing.

The store keeps these instead of whole pods, which are five kilobytes each and mostly say nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perdure.domain.names import LABEL_ATTEMPT, LABEL_TASK

CONTAINER = "agent"
#: Pod-level reasons with which the kubelet or a controller says that the pod, not its program, was ended.
_ENDED_FROM_OUTSIDE = frozenset(
    {"Evicted", "Preempted", "Preempting", "Terminated", "NodeShutdown", "Shutdown", "NodeLost"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerExit:
    """How the agent's container ended."""

    code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What a decision needs to know of a pod."""

    name: str
    uid: str
    #: Name of the AgentTask in the pod's labels, and uid of the object that owns the pod.
    task: str
    owner_uid: str
    attempt: int
    phase: str
    #: The moment at which a deleted pod's grace ends; None if nobody deleted it.
    deletion: datetime | None = None
    #: Why it was ended from outside, if it was.
    disruption: str | None = None
    started_at: datetime | None = None
    exit: ContainerExit | None = None
    #: Why the container does not start: the kubelet's reason and message.
    waiting: tuple[str, str] | None = None
    #: The scheduler's message, if it finds no node.
    unschedulable: str | None = None

    @property
    def ended(self) -> bool:
        """True once nothing of the pod runs any more."""
        return self.exit is not None or self.phase in ("Succeeded", "Failed")


def read_pod(pod: Mapping[str, Any]) -> PodFacts:
    """The facts of a pod object. Missing parts are taken as not yet known."""
    metadata = pod["metadata"]
    status: Mapping[str, Any] = pod.get("status") or {}
    labels: Mapping[str, str] = metadata.get("labels") or {}
    state = _container_state(status)
    terminated = state.get("terminated")
    waiting = state.get("waiting")
    running = state.get("running") or {}
    started = (terminated or running).get("startedAt")
    deletion = metadata.get("deletionTimestamp")
    attempt = labels.get(LABEL_ATTEMPT, "0")
    return PodFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        task=labels.get(LABEL_TASK, ""),
        owner_uid=next(
            (ref["uid"] for ref in metadata.get("ownerReferences") or () if ref.get("controller")), ""
        ),
        attempt=int(attempt) if attempt.isdigit() else 0,
        phase=status.get("phase", "Pending"),
        deletion=read_time(deletion) if deletion else None,
        disruption=_disruption(status),
        started_at=read_time(started) if started else None,
        exit=None
        if terminated is None
        else ContainerExit(
            code=int(terminated.get("exitCode", 0)),
            reason=terminated.get("reason", ""),
            message=terminated.get("message", ""),
        ),
        waiting=None if waiting is None else (waiting.get("reason", ""), waiting.get("message", "")),
        unschedulable=_unschedulable(status),
    )


def read_time(text: str) -> datetime:
    """An RFC 3339 time of the API server."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in status.get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            return container.get("state") or {}
    return {}


def _disruption(status: Mapping[str, Any]) -> str | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    if status.get("reason") in _ENDED_FROM_OUTSIDE:
        return f"{status['reason']}: {status.get('message', '')}".strip(": ")
    return None


def _unschedulable(status: Mapping[str, Any]) -> str | None:
    for condition in status.get("conditions") or ():
        if (
            condition.get("type") == "PodScheduled"
            and condition.get("status") == "False"
            and condition.get("reason") == "Unschedulable"
        ):
            return str(condition.get("message", ""))
    return None
