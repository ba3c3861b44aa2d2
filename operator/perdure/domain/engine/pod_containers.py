"""The other containers of a pod: they hold the agent up before its start, or fail before it does.

A pod runs its init containers one after the other before the agent starts. A restartable init container (a
native sidecar) has to pass its startup probe, is restarted when it ends, and cannot end the pod by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perdure.domain.kube_objects import ContainerStatus, ContainerTerminated, PodStatus

#: Name of the agent's container in every pod of an attempt.
CONTAINER = "agent"
#: Waiting reasons of a container whose turn has not come.
NOT_YET = frozenset({"", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class Hold:
    """The container for which the agent waits."""

    #: Role and name, such as `init container fetch`.
    container: str
    #: The kubelet's reason; '' if the container runs.
    reason: str
    message: str

    @property
    def text(self) -> str:
        """The cause for people."""
        return ": ".join(part for part in (self.container, self.reason, self.message) if part)


def read_hold(spec: Mapping[str, Any], status: PodStatus) -> Hold | None:
    """The container for which an agent waits that has not started; None if it waits for none."""
    native = native_sidecars(spec)
    for container in status.get("initContainerStatuses") or ():
        hold = _hold_of_init(container, is_sidecar=container.get("name", "") in native)
        if hold is not None:
            return hold
    for container in _beside(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in NOT_YET:
            name = f"container {container.get('name')}"
            return Hold(name, waiting.get("reason", ""), waiting.get("message", ""))
    return None


def native_sidecars(spec: Mapping[str, Any]) -> frozenset[str]:
    """Names of the init containers that are restarted when they end."""
    found = (each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always")
    return frozenset(str(each.get("name")) for each in found)


def failed_init(spec: Mapping[str, Any], status: PodStatus) -> tuple[str, ContainerTerminated] | None:
    """Role and end of the init container for which the kubelet has given the pod up; None if none failed."""
    if status.get("phase") != "Failed":
        return None
    native = native_sidecars(spec)
    for container in status.get("initContainerStatuses") or ():
        terminated = (container.get("state") or {}).get("terminated")
        # A native sidecar ends with its pod, usually by a signal: that is a consequence, not the cause.
        if terminated is None or container.get("name", "") in native:
            continue
        if terminated.get("exitCode", 0) != 0:
            return f"init container {container.get('name')}", terminated
    return None


def failures_beside(spec: Mapping[str, Any], status: PodStatus, ended_at: str | None) -> str:
    """Containers that failed before the agent ended, which may be why it failed; '' if there are none.

    `ended_at` is the agent's end. Afterwards the kubelet stops native sidecars, whatever their exit code.
    """
    native = native_sidecars(spec)
    sidecars = (each for each in status.get("initContainerStatuses") or () if each.get("name", "") in native)
    failed = []
    for container in (*sidecars, *_beside(status)):
        name = container.get("name", "")
        for terminated in _ends(container):
            code = terminated.get("exitCode", 0)
            if code != 0 and (ended_at is None or terminated.get("finishedAt", ended_at) < ended_at):
                role = "sidecar" if name in native else "container"
                failed.append(f"{role} {name} ended with exit code {code}")
                break
    return "; ".join(failed)


def _hold_of_init(container: ContainerStatus, *, is_sidecar: bool) -> Hold | None:
    state = container.get("state") or {}
    name = f"{'sidecar' if is_sidecar else 'init container'} {container.get('name')}"
    waiting = state.get("waiting")
    if waiting is not None:
        if waiting.get("reason", "") in NOT_YET:
            return None
        last = next(_ends(container), None)
        message = waiting.get("message", "")
        if last is not None:
            message = f"{message} (exit code {last.get('exitCode', 0)})".strip()
        return Hold(name, waiting.get("reason", ""), message)
    if "running" in state:
        if is_sidecar and container.get("started", True):
            return None
        return Hold(name, "", "has not passed its startup probe" if is_sidecar else "runs before the agent")
    terminated = state.get("terminated")
    if terminated is not None and terminated.get("exitCode", 0) != 0:
        return Hold(name, "", f"ended with exit code {terminated.get('exitCode')}")
    return None


def _beside(status: PodStatus) -> Iterator[ContainerStatus]:
    return (each for each in status.get("containerStatuses") or () if each.get("name") != CONTAINER)


def _ends(container: ContainerStatus) -> Iterator[ContainerTerminated]:
    """How a container ended, and how it ended before it was restarted."""
    for state in (container.get("state"), container.get("lastState")):
        terminated = (state or {}).get("terminated")
        if terminated is not None:
            yield terminated
