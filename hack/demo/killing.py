"""Kills an agent the hard way, wherever it runs.

Process 1 of a container cannot be killed from inside it, and the API server offers no SIGKILL: it takes
access to the node, which only a cluster of our own gives.
"""

import json

from hack.target import Problem, Target, run

#: The one container of an agent's pod.
CONTAINER = "agent"


def kill(target: Target, namespace: str, pod: str) -> str:
    """Kill the agent's process without warning. Returns the action as text. Raises Problem if that fails."""
    if target.kind == "native":
        text = target.cluster(
            "kill-container", "--namespace", namespace, "--pod", pod, "--container", CONTAINER, deadline=30
        )
        return f"kill -9 {json.loads(text)['pid']} (process 1 of its container, as the node numbers it)"
    if target.kind == "kind":
        return _kill_in_kind(target, namespace, pod)
    target.kubectl("delete", "pod", pod, "-n", namespace, "--force", "--grace-period=0", "--wait=false")
    return (
        "kubectl delete pod --force --grace-period=0 (no kill -9: that needs access to the node, which "
        "CLUSTER=current does not promise; a deleted pod counts as a disruption, not as a failure)"
    )


def _kill_in_kind(target: Target, namespace: str, pod: str) -> str:
    """kind's nodes are containers of the machine's engine."""
    found = target.get("pod", pod, "-n", namespace)
    node = found["spec"]["nodeName"]
    container = next(
        (
            status["containerID"].rpartition("/")[2]
            for status in found["status"].get("containerStatuses", [])
            if status["name"] == CONTAINER and "running" in status["state"]
        ),
        None,
    )
    if container is None:
        raise Problem(f"the agent in pod {pod} does not run")
    inspect = ["crictl", "inspect", "--output", "go-template", "--template", "{{.info.pid}}", container]
    pid = run(["docker", "exec", node, *inspect], deadline=30).strip()
    run(["docker", "exec", node, "kill", "-9", pid], deadline=30)
    return f"kill -9 {pid} (process 1 of its container, as the node {node} numbers it)"
