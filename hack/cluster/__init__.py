"""A real Kubernetes on a machine without container engine or image registry.

Why: the demo and the tests must meet the real API server, scheduler and
kubelet, on a laptop, in CI and in a bare virtual machine alike. Everything is
standard library, so that it runs before any virtual environment exists.

    python3 hack/cluster up                 # the whole thing, for demo and cluster tests
    from hack.cluster import start_light    # etcd + API server, for integration tests
"""

from .boot import start, start_full, start_kwok, start_light
from .cluster import Cluster
from .errors import ClusterError

__all__ = ["Cluster", "ClusterError", "start", "start_full", "start_kwok", "start_light"]
