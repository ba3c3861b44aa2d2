"""The light mode: etcd, API server and controller manager on loopback.

Why: integration tests want the real API server's answers (conflicts, watches,
admission, garbage collection), not pods; this boots in seconds, needs no root,
and several run side by side.
"""

import random
import socket

from . import certs
from .cluster import Cluster
from .control_plane import SERVICE_ADDRESS, Plane


def boot(cluster: Cluster, port: int | None = None) -> Plane:
    """The three programs, up to an API server in which pods can be created."""
    plane = prepare(cluster, port)
    boot_control_plane(cluster, plane)
    return plane


def prepare(cluster: Cluster, port: int | None, *, nodes: bool = False) -> Plane:
    """Certificates and ports on loopback."""
    pki = certs.create(cluster.state_dir / "pki", ["127.0.0.1", SERVICE_ADDRESS])
    api, client, peer = free_ports(3)
    return Plane(
        cluster.state_dir,
        pki,
        address="127.0.0.1",
        port=port or api,
        etcd_port=client,
        etcd_peer_port=peer,
        nodes=nodes,
        busy=nodes,
    )


def boot_control_plane(cluster: Cluster, plane: Plane) -> None:
    """etcd, API server, controller manager; returns when pods can be created."""
    cluster.facts["server"] = plane.server
    cluster.facts["ports"] = {
        "apiserver": plane.port,
        "etcd": plane.etcd_port,
        "etcd-peer": plane.etcd_peer_port,
    }
    plane.pki.write_kubeconfig(cluster.kubeconfig, "admin", plane.server)
    # The API server is patient with an etcd that does not answer yet.
    cluster.run("etcd", plane.etcd())
    cluster.run("kube-apiserver", plane.apiserver())
    api = cluster.api()
    cluster.wait("the API server", "kube-apiserver", api.ready)
    # A controller manager exits if it starts before the API server has created the RBAC rules.
    cluster.run("kube-controller-manager", plane.controller_manager())
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    cluster.wait("the default ServiceAccount", "kube-controller-manager", lambda: api.get(account))


def free_ports(count: int) -> list[int]:
    """Ports without a listener.

    Below the range that outgoing connections take theirs from: a port of that
    range can be gone before the server that was promised it has started.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
