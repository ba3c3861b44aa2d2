"""Why an existing pod's agent does not run yet.

Statuses show it, and a decision that gives up on a pod (`pendingTimeout`) says it: both must say the same.
"""

from __future__ import annotations

from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.phases import Reason

#: One reason of the closed set, and its explanation for people.
Waiting = tuple[Reason, str]

_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"})


def waiting_reason(pod: PodFacts) -> Waiting | None:
    """Why the agent of `pod` does not run yet; None if it does, or did."""
    if pod.started_at is not None or pod.ended:
        return None
    if pod.unschedulable is not None:
        return Reason.UNSCHEDULABLE, pod.unschedulable
    if pod.waiting is not None:
        reason, message = pod.waiting
        if reason in _IMAGE_REASONS:
            return Reason.IMAGE_PULL, f"{reason}: {message}" if message else reason
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            return Reason.STARTING, f"{reason}: {message}" if message else reason
    return Reason.STARTING, "the pod is being started"
