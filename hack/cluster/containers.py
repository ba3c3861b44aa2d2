"""Reaches into the node: containerd's client, images, the processes of containers.

Why: the demo kills an agent the hard way, and tests must be able to do to a
node what happens to nodes. The API server offers no such thing, on purpose.
"""

import signal
import subprocess
from pathlib import Path

from .cluster import Cluster
from .errors import ClusterError


def enter(cluster: Cluster, *command: str) -> list[str]:
    """The command line that runs a command in the node's namespaces."""
    if not cluster.init.alive:
        raise ClusterError("The cluster has ended; boot it again.")
    return [
        "nsenter",
        f"--target={cluster.init.pid}",
        *"--mount --uts --ipc --net --pid --".split(),
        *command,
    ]


def ctr(cluster: Cluster, *arguments: str) -> list[str]:
    """The command line of containerd's client, on the images and containers of Kubernetes."""
    return enter(
        cluster, "ctr", "--namespace=k8s.io", f"--address={cluster.facts['containerd_socket']}", *arguments
    )


def import_image(cluster: Cluster, archive: Path) -> list[str]:
    """Loads a docker or OCI archive; returns the names of its images."""
    try:
        # Read here and piped: the node does not see every folder of the host.
        with archive.open("rb") as file:
            text = _output(ctr(cluster, "images", "import", "-"), stdin=file)
    except OSError as error:
        raise ClusterError(f"Cannot read the image archive {archive}: {error.strerror}") from error
    return [line.split()[1] for line in text.splitlines() if line.startswith("unpacking ")]


def kill(cluster: Cluster, namespace: str, pod: str, container: str | None, number: signal.Signals) -> int:
    """Sends a real signal to process 1 of a container; returns its pid on the node."""
    _, pid = _running(cluster, namespace, pod, container)
    _output(enter(cluster, "kill", f"-{number.value}", str(pid)))
    return pid


def signal_all(cluster: Cluster, namespace: str, pod: str, container: str, number: signal.Signals) -> int:
    """Sends a signal to all processes of a container, which freezes a server; returns their number."""
    task, _ = _running(cluster, namespace, pod, container)
    rows = _output(ctr(cluster, "tasks", "ps", task)).splitlines()[1:]
    pids = [row.split()[0] for row in rows]
    # A process may have ended meanwhile.
    _output(enter(cluster, "sh", "-c", f"kill -{number.value} {' '.join(pids)} || true"))
    return len(pids)


def _running(cluster: Cluster, namespace: str, pod: str, container: str | None) -> tuple[str, int]:
    """The one running container of a pod with that name: its id, and the pid of its process 1 on the node."""
    label = 'labels."io.kubernetes.{}"=={}'
    wanted = [label.format("pod.namespace", namespace), label.format("pod.name", pod)]
    if container:
        wanted.append(label.format("container.name", container))
    kind = 'labels."io.cri-containerd.kind"==container'
    found = set(_output(ctr(cluster, "containers", "list", "--quiet", ",".join([*wanted, kind]))).split())
    running = [
        (task, int(pid))
        for task, pid, state in (
            row.split()[:3] for row in _output(ctr(cluster, "tasks", "list")).splitlines()[1:]
        )
        if task in found and state == "RUNNING"
    ]
    if not running:
        raise ClusterError(f"No container of pod {namespace}/{pod} runs on the node.")
    if len(running) > 1:
        raise ClusterError(f"Pod {namespace}/{pod} runs several containers: name one with --container.")
    return running[0]


def _output(command: list[str], stdin: object = subprocess.DEVNULL) -> str:
    done = subprocess.run(  # type: ignore[call-overload]
        command, stdin=stdin, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed:\n{done.stderr.strip() or done.stdout.strip()}")
    return str(done.stdout)
