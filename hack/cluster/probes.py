"""Sees from the machine whether a component of a cluster serves.

Why: a program that runs does not answer yet, and programs that depend on it exit
meanwhile; boot and repair wait for these probes.
"""

import http.client
import socket
from collections.abc import Callable
from typing import Any, Protocol

from .api import Api
from .identity import Process

COREDNS_READY_PORT = 8181
KUBELET_PORT = 10250


class Probed(Protocol):
    """The part of a cluster that a probe needs."""

    facts: dict[str, Any]

    @property
    def init(self) -> Process: ...

    def api(self) -> Api: ...

    def runs(self, component: str) -> bool: ...


def of(component: str, cluster: Probed) -> Callable[[], bool] | None:
    """The probe of a component; None where nothing can be observed, or nothing depends on the component."""
    if component == "kube-apiserver":
        return cluster.api().ready
    if component == "containerd":
        # The way into the file system of another mount namespace.
        return lambda: _listens(f"/proc/{cluster.init.pid}/root{cluster.facts['containerd_socket']}")
    if component == "kubelet":
        return lambda: _kubelet_knows_its_pods(cluster)
    if component == "coredns":
        return lambda: _answers(cluster.facts["addresses"]["node"], COREDNS_READY_PORT, "/ready")
    return None


def _kubelet_knows_its_pods(cluster: Probed) -> bool:
    """True if the kubelet has its pods: a restarted kubelet refuses `kubectl exec` until then."""
    facts = cluster.facts
    if not _listens((facts["addresses"]["node"], KUBELET_PORT)):
        return False
    if not cluster.runs("kube-apiserver"):
        return True  # it cannot learn of them
    api, running = cluster.api(), f"spec.nodeName={facts['node']},status.phase=Running"
    expected = api.get(f"/api/v1/pods?fieldSelector={running}")
    known = api.get(f"/api/v1/nodes/{facts['node']}/proxy/pods")
    if expected is None or known is None:
        return False
    return _uids(expected) <= _uids(known)


def _uids(pods: Any) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods.get("items") or []}


def _listens(address: str | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address)
        except OSError:
            return False
        return True


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
