"""The boot of a cluster, in each of its modes.

Why: the command line and the test fixtures share the rules about whose cluster may be touched. A state folder
is one cluster; a second boot of the folder returns the healthy cluster that it holds, or repairs it.
"""

import sys
from pathlib import Path
from typing import Any

from . import full, kwok, light, packages, programs, sweep
from .cluster import Cluster, Mode
from .control import Supervisor
from .errors import ClusterError
from .state_folder import locked


def start(
    mode: Mode, state_dir: Path, *, attached: bool = True, port: int | None = None, nodes: int = 10
) -> Cluster:
    """Boots a cluster, or returns the healthy cluster that the folder has already.

    An attached cluster ends with this process, in whatever way the process ends.
    """
    state_dir = state_dir.absolute()
    if mode == "full":
        packages.ensure()
    programs.build(programs.SETS[mode])
    with locked(state_dir):
        if cluster := _running(mode, state_dir):
            return cluster
        remains = sweep.clean(state_dir)
        if remains:
            raise ClusterError(f"Leftovers of an earlier cluster could not be removed: {'; '.join(remains)}")
        (state_dir / "logs").mkdir(exist_ok=True)
        supervisor = Supervisor.spawn(state_dir, attached=attached, isolated=mode == "full")
        identity = {"pid": supervisor.process.pid, "start": supervisor.process.start}
        facts = {
            "mode": mode,
            "booted": False,
            "isolated": mode == "full",
            "supervisor": identity,
            "server": "",
        }
        cluster = Cluster(state_dir, facts, supervisor)
        try:
            cluster.save()
            if mode == "full":
                full.boot(cluster)
            elif mode == "kwok":
                kwok.boot(cluster, port=port, nodes=nodes)
            else:
                light.boot(cluster, port=port)
            cluster.facts["booted"] = True
            cluster.save()
        except BaseException:
            # A half-booted cluster is removed; its logs explain the failure.
            supervisor.end()
            sweep.clean(state_dir, keep_logs=True)
            raise
        return cluster


def start_light(state_dir: Path, **options: Any) -> Cluster:
    """etcd, API server and controller manager on loopback; several can run side by side."""
    return start("light", state_dir, **options)


def start_kwok(state_dir: Path, **options: Any) -> Cluster:
    """The light cluster with a scheduler and simulated nodes."""
    return start("kwok", state_dir, **options)


def start_full(state_dir: Path, **options: Any) -> Cluster:
    """A real node as well; needs root."""
    return start("full", state_dir, **options)


def _running(mode: Mode, state_dir: Path) -> Cluster | None:
    cluster = Cluster.load(state_dir)
    if cluster is None:
        return None
    if not cluster.facts["booted"]:
        cluster.supervisor.end()  # the booting process was killed meanwhile
        return None
    if cluster.mode != mode:
        raise ClusterError(
            f"{state_dir} holds a running cluster of mode {cluster.mode}: take it down first "
            "(python3 hack/cluster down), or choose another --state-dir."
        )
    if revived := cluster.repair():
        print(f"Started again, as they had died: {', '.join(revived)}", file=sys.stderr)
    return cluster
