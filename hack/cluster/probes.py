"""Sees from the machine whether a component of a cluster serves.

Why: a program that runs does not yet answer, and others exit when they find
nobody to talk to; boot and repair wait for these.
"""

import http.client
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cluster import Cluster

COREDNS_READY_PORT = 8181
KUBELET_PORT = 10250


def of(component: str, cluster: "Cluster") -> Callable[[], bool] | None:
    """The probe of a component; None where nothing can be seen, or nobody depends on it."""
    if component == "kube-apiserver":
        return cluster.api().ready
    if component == "containerd":
        # The way into the file system of another mount namespace.
        return lambda: _listens(f"/proc/{cluster.init.pid}/root{cluster.facts['containerd_socket']}")
    if component == "kubelet":
        return lambda: _listens((cluster.facts["addresses"]["node"], KUBELET_PORT))
    if component == "coredns":
        return lambda: _answers(cluster.facts["addresses"]["node"], COREDNS_READY_PORT, "/ready")
    return None


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
