"""The full mode: a control plane and a real node, in namespaces of their own.

Why: the chart, the agents' pods and the demo need what only a node has: images,
containers that die, logs, exec, Services and names.
"""

import tempfile
from pathlib import Path
from typing import Any

from . import archive, certs, cgroups, containers, network, programs
from .api import node_ready
from .cluster import Cluster
from .control_plane import SERVICE_ADDRESS, Plane
from .light import boot_control_plane
from .network import BRIDGE_ADDRESS
from .node import NAME, PAUSE, SOCKET, Node


def boot(cluster: Cluster) -> None:
    """Everything, up to a node on which pods start."""
    wire = network.connect(cluster.init)
    cgroup = cgroups.name_for(cluster.init)
    cluster.facts |= {
        "addresses": {
            "host": wire.host,
            "node": wire.node,
            "dns": BRIDGE_ADDRESS,
            "service": SERVICE_ADDRESS,
        },
        "interface": [wire.interface, network.index(wire.interface)],
        "node": NAME,
        "cgroup": cgroup,
        "containerd_socket": SOCKET,
        "namespaces": {
            name: f"/proc/{cluster.init.pid}/ns/{name}" for name in ("pid", "mnt", "net", "ipc", "uts")
        },
    }
    cluster.save()
    pki = certs.create(cluster.state_dir / "pki", ["127.0.0.1", wire.node, SERVICE_ADDRESS])
    plane = Plane(cluster.state_dir, pki, address=wire.node, nodes=True, durable=True)
    node = Node(plane, wire, cgroup)
    node.create_cgroup()

    # CoreDNS needs no other component, and is ready by the time the API server is.
    cluster.run("containerd", node.containerd())
    boot_control_plane(cluster, plane)
    cluster.run("kube-scheduler", plane.scheduler())
    api = cluster.api()
    for path, body in _dns_rights():
        api.create(path, body)
    cluster.run("kube-proxy", node.proxy())
    cluster.run("coredns", node.coredns())
    _import_pause(cluster)
    # A kubelet that finds no container runtime exits.
    cluster.run("kubelet", node.kubelet())

    def ready() -> bool:
        return node_ready(api.get(f"/api/v1/nodes/{NAME}") or {})

    cluster.wait("the node to become ready", "kubelet", ready, 90)
    cluster.await_component("coredns")


def _import_pause(cluster: Cluster) -> None:
    cluster.await_component("containerd")
    with tempfile.TemporaryDirectory() as folder:
        image = archive.pack(Path(folder, "pause.tar"), PAUSE, {"/pause": programs.path("pause")}, ["/pause"])
        containers.import_image(cluster, image)


def _dns_rights() -> list[tuple[str, dict[str, Any]]]:
    group = "/apis/rbac.authorization.k8s.io/v1"
    role: dict[str, Any] = {
        "metadata": {"name": "system:coredns"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    binding = {
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
    }
    return [(f"{group}/clusterroles", role), (f"{group}/clusterrolebindings", binding)]
