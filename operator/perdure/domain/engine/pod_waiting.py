"""Why an existing pod's agent does not run yet.

Statuses show it, and a decision that gives up on a pod (`pendingTimeout`) says it: both must say the same.
"""

from __future__ import annotations

from perdure.domain.engine.pod_containers import NOT_YET
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.phases import Reason

#: One reason of the closed set, and its explanation for people.
Waiting = tuple[Reason, str]

_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "ImageInspectError",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_NOT_READY = "the pod is being started"


def waiting_reason(pod: PodFacts, event: str | None = None) -> Waiting | None:
    """Why the agent of `pod` does not run yet; None if it does, or did.

    `event` is the newest warning Event about the pod, which counts while the pod itself says nothing.
    """
    if pod.started_at is not None or pod.ended:
        return None
    if pod.unschedulable is not None:
        return Reason.UNSCHEDULABLE, pod.unschedulable
    if pod.not_scheduled is not None:
        return Reason.STARTING, pod.not_scheduled
    if pod.waiting is not None and pod.waiting[0] not in NOT_YET:
        reason, message = pod.waiting
        return _reason(reason), f"{reason}: {message}" if message else reason
    if pod.hold is not None:
        return _reason(pod.hold.reason), pod.hold.text
    if event:
        return Reason.STARTING, event
    if pod.unprepared:
        return Reason.STARTING, f"{_NOT_READY}: its volumes and its network are not ready"
    return Reason.STARTING, _NOT_READY


def is_silent(pod: PodFacts) -> bool:
    """True if nothing in the pod's status says why its agent does not run: its Events may."""
    if pod.started_at is not None or pod.ended or pod.hold is not None:
        return False
    if pod.unschedulable is not None or pod.not_scheduled is not None:
        return False
    return pod.waiting is None or pod.waiting[0] in NOT_YET


def _reason(kubelet_reason: str) -> Reason:
    return Reason.IMAGE_PULL if kubelet_reason in _IMAGE_REASONS else Reason.STARTING
