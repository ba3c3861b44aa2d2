"""A pod as decisions see it: the few facts by which an attempt is judged.

The store keeps these instead of whole pods, which are five kilobytes each and mostly say nothing new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from perdure.domain.engine.pod_containers import CONTAINER, Hold, failed_init, failures_beside, read_hold
from perdure.domain.kube_objects import (
    Condition,
    ContainerState,
    ContainerTerminated,
    ObjectMeta,
    OwnerReference,
    PodStatus,
    controlling_owner,
)
from perdure.domain.names import (
    ANNOTATION_RETENTION,
    LABEL_ATTEMPT,
    LABEL_MANAGED_BY,
    LABEL_TASK,
    MANAGED_BY,
)

#: More attempts than a task can have: 1,000 retries, 1,000 disruptions, and as many pauses as people ask for.
_MAX_ATTEMPT = 999_999_999
#: Pod-level reasons with which the kubelet or a controller says that the pod, not its program, was ended.
_ENDED_FROM_OUTSIDE = frozenset(
    {"Evicted", "Preempted", "Preempting", "Terminated", "NodeShutdown", "Shutdown", "NodeLost"}
)
_EVICTED = "Evicted"
#: Messages of the kubelet about a pod that it evicts for a limit of the pod's own (Kubernetes,
#: `pkg/kubelet/eviction`). Such a pod has no condition DisruptionTarget. Neither has a pod
#: that a node under pressure refuses, which is Evicted as well: hence the messages.
_OVER_LIMIT = re.compile(
    r"Usage of EmptyDir volume |Pod ephemeral local storage usage exceeds "
    r"|Container \S+ exceeded its local ephemeral storage limit"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerExit:
    """How the agent's container ended, or the init container that kept it from starting."""

    code: int
    reason: str
    message: str
    #: Role and name of the container, such as `init container fetch`; '' for the agent's own. The exit codes
    #: of the contract with agents mean something from the agent alone.
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What a decision needs to know of a pod."""

    #: Name of the object that was made for the attempt: the pod's own, or that of the Job that owns it.
    name: str
    uid: str
    #: Name of the AgentTask in the pod's labels, and uid of the object that owns the pod: task or Job.
    task: str
    owner_uid: str
    attempt: int
    phase: str
    #: The moment at which a deleted pod's grace ends; None if it was not deleted.
    deletion: datetime | None = None
    #: Why it was ended from outside, if it was.
    disruption: str | None = None
    #: Which limit of its own the pod exceeded, if it was evicted for that: of ephemeral storage, of a volume.
    over_limit: str | None = None
    started_at: datetime | None = None
    exit: ContainerExit | None = None
    #: Why the container does not start: the kubelet's reason and message.
    waiting: tuple[str, str] | None = None
    #: The scheduler's message, if it finds no node.
    unschedulable: str | None = None
    #: Why the scheduler does not even try: a scheduling gate, or an error of its own.
    not_scheduled: str | None = None
    #: Another container for which the agent waits, before its start.
    hold: Hold | None = None
    #: The pod is on a node, and its volumes and its network are not ready there.
    unprepared: bool = False
    #: Other containers that failed before the agent ended; '' if there are none.
    failed_beside: str = ""
    #: The pod's own name, if a Job made it.
    generated_name: str | None = None
    #: Whether another container than the agent's runs.
    others_run: bool = False
    #: False if the retention of its run may delete the pod once the pod has ended.
    kept: bool = True
    #: False once its labels have left the selector of the watch: no event reports a change of the pod.
    watched: bool = True

    @property
    def of_job(self) -> bool:
        """True if a Job made it."""
        return self.generated_name is not None

    @property
    def pod_name(self) -> str:
        """The pod's own name, by which logs are found."""
        return self.generated_name or self.name

    @property
    def agent_ended(self) -> bool:
        """True once the agent's container has ended, and with it the attempt, whatever else runs."""
        return self.exit is not None or self.phase in ("Succeeded", "Failed")

    @property
    def ended(self) -> bool:
        """True once nothing of the pod runs any more."""
        return self.agent_ended and not self.others_run

    def identified_as(self, known: PodFacts) -> PodFacts:
        """The facts with the identity of an earlier version of the same pod.

        Labels, annotations and owner references can be changed by everybody who may change pods, and the pod
        stays the pod of its attempt: otherwise a second pod of the task would run. Of a Job's pod the
        owner is the present one: a Job that was deleted without its pod cannot be deleted to end the pod.
        """
        owner_uid = self.owner_uid if known.of_job else known.owner_uid
        identity = (known.name, known.task, owner_uid, known.attempt, known.generated_name, known.kept)
        if identity == (self.name, self.task, self.owner_uid, self.attempt, self.generated_name, self.kept):
            return self  # as almost always: a copy of all fields costs more than reading the pod's status
        name, task, owner_uid, attempt, generated_name, kept = identity
        return replace(
            self,
            name=name,
            task=task,
            owner_uid=owner_uid,
            attempt=attempt,
            generated_name=generated_name,
            kept=kept,
        )


def read_pod(pod: Mapping[str, Any]) -> PodFacts:
    """The facts of a pod object. Missing parts are taken as not yet known."""
    metadata: ObjectMeta = pod["metadata"]
    status: PodStatus = pod.get("status") or PodStatus()
    labels = metadata.get("labels") or {}
    state = _container_state(status)
    terminated = state.get("terminated")
    waiting = state.get("waiting")
    started = (terminated or state.get("running") or {}).get("startedAt")
    deletion = metadata.get("deletionTimestamp")
    owner = controlling_owner(pod) or {}
    job = _job_of(owner)
    spec = pod.get("spec") or {}
    return PodFacts(
        name=job or metadata["name"],
        uid=metadata["uid"],
        task=labels.get(LABEL_TASK, ""),
        owner_uid=owner.get("uid", ""),
        attempt=read_number(labels.get(LABEL_ATTEMPT), most=_MAX_ATTEMPT),
        phase=status.get("phase", "Pending"),
        deletion=read_time(deletion) if deletion else None,
        disruption=_disruption(status),
        over_limit=_over_limit(status),
        started_at=read_time(started) if started else None,
        exit=_failed_before(spec, status) if terminated is None else _exit(terminated),
        waiting=None if waiting is None else (waiting.get("reason", ""), waiting.get("message", "")),
        unschedulable=_unschedulable(status),
        not_scheduled=_not_scheduled(spec, status),
        hold=read_hold(spec, status) if started is None else None,
        unprepared=started is None and _is_unprepared(status),
        failed_beside=failures_beside(spec, status, terminated.get("finishedAt")) if terminated else "",
        generated_name=metadata["name"] if job else None,
        others_run=_others_run(status),
        kept=ANNOTATION_RETENTION not in (metadata.get("annotations") or {}),
        watched=labels.get(LABEL_MANAGED_BY) == MANAGED_BY,
    )


def read_number(text: object, *, most: int) -> int:
    """A whole number from a label or an annotation, which people can write: 0 if `text` is none.

    Numbers beyond `most` are taken for `most`. A text of more digits is never converted: `int` raises for
    more than 4,300 of them.
    """
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()):
        return 0
    return most if len(text) > len(str(most)) else min(int(text), most)


def read_time(text: str) -> datetime:
    """An RFC 3339 time of the API server."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _job_of(owner: OwnerReference) -> str | None:
    """Name of the Job that controls a pod; None if none does."""
    is_job = owner.get("kind") == "Job" and str(owner.get("apiVersion")).startswith("batch/")
    return owner["name"] if is_job else None


def _exit(terminated: ContainerTerminated) -> ContainerExit:
    return ContainerExit(
        code=int(terminated.get("exitCode", 0)),
        reason=terminated.get("reason", ""),
        message=terminated.get("message", ""),
    )


def _failed_before(spec: Mapping[str, Any], status: PodStatus) -> ContainerExit | None:
    """How an init container ended that kept the agent from starting; None if none did.

    That is a failure of what was asked to run, not a disruption. It counts once the kubelet has given up.
    """
    failed = failed_init(spec, status)
    if failed is None:
        return None
    name, terminated = failed
    ended = _exit(terminated)
    message = f"{name}: {ended.message}" if ended.message else name
    return ContainerExit(code=ended.code, reason=ended.reason, message=message, container=name)


def _others_run(status: PodStatus) -> bool:
    # Those of a pod that has ended may be shown as running still if its node was lost.
    return status.get("phase") not in ("Succeeded", "Failed") and any(
        container.get("name") != CONTAINER and "running" in (container.get("state") or {})
        for container in status.get("containerStatuses") or ()
    )


def _container_state(status: PodStatus) -> ContainerState:
    for container in status.get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            return container.get("state") or {}
    return {}


def _disruption(status: PodStatus) -> str | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    if status.get("reason") in _ENDED_FROM_OUTSIDE and not _exceeds_limit(status):
        return f"{status['reason']}: {status.get('message', '')}".strip(": ")
    return None


def _over_limit(status: PodStatus) -> str | None:
    """What the kubelet says of a pod that it evicted for exceeding a limit of its own, like an OOM kill."""
    if _disruption(status) is not None or not _exceeds_limit(status):
        return None
    return str(status.get("message", "")).strip()


def _exceeds_limit(status: PodStatus) -> bool:
    message = status.get("message") or ""
    return status.get("reason") == _EVICTED and _OVER_LIMIT.match(message) is not None


def _unschedulable(status: PodStatus) -> str | None:
    condition = _unscheduled(status)
    if condition is None or condition.get("reason") != "Unschedulable":
        return None
    return str(condition.get("message", ""))


def _not_scheduled(spec: Mapping[str, Any], status: PodStatus) -> str | None:
    condition = _unscheduled(status)
    if condition is None or condition.get("reason") == "Unschedulable":
        return None
    gates = ", ".join(str(gate.get("name")) for gate in spec.get("schedulingGates") or ())
    text = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return f"{text} ({gates})" if gates else text


def _unscheduled(status: PodStatus) -> Condition | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return condition
    return None


def _is_unprepared(status: PodStatus) -> bool:
    return any(
        condition.get("type") == "PodReadyToStartContainers" and condition.get("status") == "False"
        for condition in status.get("conditions") or ()
    )
