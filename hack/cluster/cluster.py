"""One cluster: its facts, its components, and how it is taken down.

Why: the demo and the tests kill, restart and inspect the components of a real control plane; every one of
these operations needs the same facts, which `cluster.json` keeps for the next command.
"""

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from . import probes, programs, state_folder, sweep
from .api import Api, wait_for
from .certs import Pki
from .control import Supervisor
from .identity import Process, host_pids
from .state_folder import FACTS, KUBECONFIG, locked

Mode = Literal["light", "kwok", "full"]


class Cluster:
    """A cluster that runs, or is about to."""

    def __init__(self, state_dir: Path, facts: dict[str, Any], supervisor: Supervisor) -> None:
        self.state_dir = state_dir
        self.facts = facts
        self.supervisor = supervisor

    @classmethod
    def load(cls, state_dir: Path) -> "Cluster | None":
        """The living cluster of this folder."""
        facts = state_folder.facts(state_dir)
        if facts is None:
            return None
        return cls(state_dir, facts, Supervisor(state_dir, Process(**facts["supervisor"])))

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
        """Sends a signal; a component that died stays away until `restart` or `repair`."""
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
        """Starts the components that had died; returns their names."""
        # In the order of boot: some components exit while their peers do not answer.
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
        """Takes the cluster down; returns what could not be removed (nothing, normally)."""
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


def stop(state_dir: Path, *, keep_logs: bool = False, cluster: Cluster | None = None) -> list[str]:
    """Takes down the cluster of a folder; returns what could not be removed."""
    state_dir = state_dir.absolute()
    if not state_dir.exists():
        return []
    with locked(state_dir):
        cluster = cluster or Cluster.load(state_dir)
        if cluster and not cluster.supervisor.end():
            return [f"process {cluster.init.pid} does not die"]
        remains = sweep.clean(state_dir, keep_logs=keep_logs)
        with suppress(OSError):  # it holds something of the user's
            state_dir.rmdir()
        return remains
