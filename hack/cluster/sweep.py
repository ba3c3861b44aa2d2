"""Removes what a dead cluster left behind, and only that.

Why: a cluster's processes, mounts, interfaces and firewall rules live in
namespaces that end with its process 1, however that was killed. What survives
are its control groups and its files. A control group carries in its name the
process that owns it, so that any checkout can determine whether the owner is dead: two
checkouts on one machine never sweep each other's live cluster.
"""

from pathlib import Path

from . import cgroups, network
from .state_folder import FACTS, facts, remove


def clean(state_dir: Path, *, keep_logs: bool = False) -> list[str]:
    """Sweeps the folder's cluster, which must be dead, and the control groups of all dead clusters."""
    if facts(state_dir) is not None:
        return [f"the cluster in {state_dir} still runs"]
    return network.disconnected(state_dir / FACTS) + cgroups.sweep() + remove(state_dir, keep_logs=keep_logs)
