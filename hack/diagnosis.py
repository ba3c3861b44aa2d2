"""The state of pods that do not become ready: conditions, events, last log lines.

Why: a person who runs `make demo` for the first time should not need to know where a cause is reported.
"""

from datetime import datetime
from typing import Any

from hack.target import Problem, Target, say

#: Lines of each log.
TAIL = 30
#: Restarts after which a new pod is given up; by then it has tried for about a minute.
HOPELESS = 4


def summary(target: Target, namespace: str) -> str:
    """The pods of a namespace on one line: `2 of 3 pods ready; perdure-nats-0 Running`. Raises Problem."""
    states = {pod["metadata"]["name"]: state(pod) for pod in target.get("pods", "-n", namespace)["items"]}
    others = [f"{name} {state}" for name, state in states.items() if state != "Ready"]
    return "; ".join([f"{len(states) - len(others)} of {len(states)} pods ready", *others])


def state(pod: dict[str, Any]) -> str:
    """Ready, or why not, in a word or two."""
    status = pod["status"]
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in {None, "PodInitializing"}:
            return str(waiting["reason"])
    if any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions", [])
    ):
        return "Ready"
    initial = status.get("initContainerStatuses", [])
    if initial and not all(one.get("state", {}).get("terminated") for one in initial):
        return "Initializing"
    return str(status.get("phase", "Unknown"))


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def crashing(target: Target, namespace: str, *, since: datetime) -> list[str]:
    """Pods created after `since` that end again and again: waiting does not help. Raises Problem."""
    found = []
    for pod in target.get("pods", "-n", namespace)["items"]:
        made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"].replace("Z", "+00:00"))
        restarts = max((one["restartCount"] for one in _containers(pod)), default=0)
        if made >= since and state(pod) == "CrashLoopBackOff" and restarts >= HOPELESS:
            found.append(pod["metadata"]["name"])
    return found


def show(target: Target, *namespaces: str) -> None:
    """Print the pods, the causes of pods that are not ready, and the ends of their logs. Never fails."""
    for namespace in namespaces:
        say(f"\n--- what is in namespace {namespace}")
        _try(target, "get", "pods", "-o", "wide", "-n", namespace)
        warnings = ("--field-selector=type=Warning", "--sort-by=.lastTimestamp")
        _try(target, "get", "events", "-n", namespace, *warnings)
        try:
            pods = target.get("pods", "-n", namespace)["items"]
        except Problem:
            continue
        for pod in pods:
            if state(pod) == "Ready" or pod["status"].get("phase") == "Succeeded":
                continue
            name = pod["metadata"]["name"]
            say(f"\n--- pod {name}")
            _try(target, "describe", "pod", name, "-n", namespace, last=40)
            _try(target, "logs", name, "-n", namespace, "--all-containers", "--prefix", f"--tail={TAIL}")


def logs(target: Target, namespace: str, *names: str) -> None:
    """The ends of the logs of Deployments. Never fails."""
    for name in names:
        say(f"\n--- log of {name}")
        _try(target, "logs", name, "-n", namespace, f"--tail={TAIL}")


def _try(target: Target, *arguments: str, last: int | None = None) -> None:
    try:
        lines = target.kubectl(*arguments, deadline=30).rstrip().splitlines()
    except Problem as problem:
        lines = [str(problem)]
    for line in lines if last is None else lines[-last:]:
        say(line)
