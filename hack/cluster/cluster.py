"""The life of one cluster: boot it, find it again, repair it, take it down.

Why: the command line and the test fixtures share the rules about whose cluster
may be touched. A state folder is one cluster; its `cluster.json` names the
process that holds it; while that process lives, the cluster is somebody's.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from . import probes, programs
from .api import Api, wait_for
from .certs import Pki
from .control import SOCKET, Supervisor
from .errors import ClusterError
from .identity import Process, host_pids

Mode = Literal["light", "kwok", "full"]

FACTS = "cluster.json"
KUBECONFIG = "kubeconfig"
# All that a cluster ever writes: taking it down deletes these and nothing else,
# because a state folder may be one that the user had already.
FILES = (KUBECONFIG, FACTS, SOCKET, f"{SOCKET}.new", "scheduler.json", "pki", "etcd", "node", "kwok.json")


class Cluster:
    """A cluster that runs, or is about to."""

    def __init__(self, state_dir: Path, facts: dict[str, Any], supervisor: Supervisor) -> None:
        self.state_dir = state_dir
        self.facts = facts
        self.supervisor = supervisor

    @classmethod
    def load(cls, state_dir: Path) -> "Cluster | None":
        """The living cluster of this folder."""
        try:
            facts = json.loads((state_dir / FACTS).read_text())
        except (OSError, ValueError):
            return None
        process = Process(**facts["supervisor"])
        return cls(state_dir, facts, Supervisor(state_dir, process)) if process.alive else None

    @property
    def mode(self) -> Mode:
        return self.facts["mode"]  # type: ignore[no-any-return]

    @property
    def kubeconfig(self) -> Path:
        return self.state_dir / KUBECONFIG

    @property
    def server(self) -> str:
        return str(self.facts["server"])

    @property
    def kubectl(self) -> Path:
        return programs.path("kubectl")

    @property
    def init(self) -> Process:
        return self.supervisor.process

    def log(self, component: str) -> Path:
        return self.state_dir / "logs" / f"{component}.log"

    def api(self) -> Api:
        pki = Pki(self.state_dir / "pki")
        return Api(self.server, pki.authority, pki.token("admin"))

    def run(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.supervisor.start(name, argv, env)

    def wait(self, what: str, component: str, check: Callable[[], Any], seconds: float = 60) -> None:
        wait_for(what, check, seconds, self.log(component), lambda: self.runs(component))

    def runs(self, component: str) -> bool:
        return self.supervisor.components().get(component, {}).get("pid") is not None

    def dead(self) -> list[str]:
        """The components that do not run."""
        return [name for name, state in self.supervisor.components().items() if state["pid"] is None]

    def healthy(self) -> bool:
        return bool(self.facts.get("booted")) and not self.dead() and self.api().ready()

    def kill(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal; one that died stays away until it is restarted."""
        self.supervisor.kill(component, number)
        self.save()

    def restart(self, component: str) -> None:
        """SIGKILL if it runs, then start; returns when it serves."""
        self.supervisor.kill(component)
        self._revive(component)
        if component == "etcd" and self.runs("kube-apiserver"):
            self.await_component("kube-apiserver")
        self.save()

    def repair(self) -> list[str]:
        """Starts what had died; returns what that was."""
        # In the order of boot: some of them exit when they find nobody to talk to.
        dead = self.dead()
        for component in dead:
            self._revive(component)
        self.await_component("kube-apiserver")
        self.save()
        return dead

    def _revive(self, component: str) -> None:
        self.supervisor.start(component)
        self.await_component(component)

    def await_component(self, component: str) -> None:
        """Waits until it serves, as far as that can be seen from outside."""
        if check := probes.of(component, self):
            self.wait(f"{component} to serve", component, check)

    def stop(self, *, keep_logs: bool = False) -> list[str]:
        """Takes it down; returns what could not be removed (nothing, normally)."""
        return stop(self.state_dir, keep_logs=keep_logs, cluster=self)

    def save(self) -> None:
        """Writes the facts, with the pids as they are now."""
        inside = host_pids(self.init) if self.facts["isolated"] else None
        components = {}
        for name, state in self.supervisor.components().items():
            pid = inside.get(state["pid"] or 0) if inside is not None else state["pid"]
            process = Process.of(pid) if pid else None
            components[name] = {"pid": process.pid, "start": process.start} if process else None
        self.facts["components"] = components
        target = self.state_dir / FACTS
        unfinished = target.with_name(f".{FACTS}.new")
        unfinished.write_text(json.dumps(self.facts, indent=1) + "\n")
        unfinished.rename(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    mode: Mode, state_dir: Path, *, attached: bool = True, port: int | None = None, nodes: int = 10
) -> Cluster:
    """Boots a cluster, or returns the healthy one that the folder has already.

    An attached one ends with this process, in whatever way that ends.
    """
    from . import full, kwok, light, packages, sweep  # they import this module

    state_dir = state_dir.absolute()
    if mode == "full":
        packages.ensure()
    programs.build(programs.SETS[mode])
    with _locked(state_dir):
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
            # Half a cluster helps nobody; its logs do.
            supervisor.end()
            sweep.clean(state_dir, keep_logs=True)
            raise
        return cluster


def start_light(state_dir: Path, **options: Any) -> Cluster:
    """etcd, API server and controller manager on loopback; several can run side by side."""
    return start("light", state_dir, **options)


def start_kwok(state_dir: Path, **options: Any) -> Cluster:
    """The light one with a scheduler and simulated nodes."""
    return start("kwok", state_dir, **options)


def start_full(state_dir: Path, **options: Any) -> Cluster:
    """A real node as well; needs root."""
    return start("full", state_dir, **options)


def stop(state_dir: Path, *, keep_logs: bool = False, cluster: Cluster | None = None) -> list[str]:
    """Takes down whatever the folder holds; returns what could not be removed."""
    from . import sweep

    state_dir = state_dir.absolute()
    if not state_dir.exists():
        return []
    with _locked(state_dir):
        cluster = cluster or Cluster.load(state_dir)
        if cluster and not cluster.supervisor.end():
            return [f"process {cluster.init.pid} does not die"]
        remains = sweep.clean(state_dir, keep_logs=keep_logs)
        with suppress(OSError):  # it holds something of the user's
            state_dir.rmdir()
        return remains


def _running(mode: Mode, state_dir: Path) -> Cluster | None:
    cluster = Cluster.load(state_dir)
    if cluster is None:
        return None
    if not cluster.facts["booted"]:
        cluster.supervisor.end()  # whoever booted it was killed meanwhile
        return None
    if cluster.mode != mode:
        raise ClusterError(
            f"{state_dir} holds a running cluster of mode {cluster.mode}: take it down first "
            "(python3 hack/cluster down), or choose another --state-dir."
        )
    if revived := cluster.repair():
        print(f"Started again, as they had died: {', '.join(revived)}", file=sys.stderr)
    return cluster


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """One command at a time per state folder; the folder itself is the lock."""
    deadline = time.monotonic() + 180
    while True:
        state_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one who had the lock may have deleted the folder.
            if os.path.exists(state_dir) and os.path.samestat(os.fstat(folder), os.stat(state_dir)):
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(folder)
                raise ClusterError(
                    f"Another command has worked on {state_dir} for three minutes; see what it does."
                ) from None
            time.sleep(0.1)
        os.close(folder)
    try:
        yield
    finally:
        os.close(folder)


def remove(state_dir: Path, *, keep_logs: bool) -> list[str]:
    """Deletes the files of a cluster that is no more; returns what stayed."""
    for name in FILES if keep_logs else (*FILES, "logs"):
        target = state_dir / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
    return [str(state_dir / name) for name in FILES if (state_dir / name).exists()]
