"""The arguments of a fault: the installed product, the run under way, the journal of its agents."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hack.cluster import containers
from hack.target import NAMESPACE

from tests.cluster.faults.journal import Journal
from tests.cluster.faults.workload import COUNT, ITEMS
from tests.cluster.installation import DEADLINE, Installation, Object, ready
from tests.cluster.runs import Run
from tests.cluster.waiting import until

#: Seconds for which something is frozen or away: longer than any retry, shorter than any probe.
AWAY = 5.0


@dataclass
class Stage:
    """A disturbed run."""

    perdure: Installation
    namespace: str
    journal: Journal
    _run: Run | None = None

    @property
    def run(self) -> Run:
        assert self._run is not None, "not applied yet"
        return self._run

    def apply(self, manifest: Object) -> None:
        """Start the run."""
        self._run = Run.apply(self.perdure, self.namespace, manifest)

    def clear(self) -> None:
        """Start the deletion of the fault's namespace, without waiting for its end.

        The namespace of a failed test stays for inspection. All namespaces together, three rounds with fifty
        items, hold thousands of ended pods, on which the kubelet spends half a core.
        """
        self.perdure.ok("delete", "namespace", self.namespace, "--wait=false")

    def until_busy(self) -> None:
        """Wait until a third of the work is done: some items have ended, some run, some have not started."""
        self.journal.until("done", ITEMS * COUNT // 3)

    # --- agents

    def pod_of(self, item: int) -> str:
        """Name of the newest pod of an item."""

        def newest() -> str:
            numbers = {
                int(pod["metadata"]["labels"]["perdure.dev/attempt"]): pod["metadata"]["name"]
                for pod in self.run.pods("work")
                if pod["metadata"]["labels"]["perdure.dev/index"] == str(item)
            }
            return str(numbers[max(numbers)]) if numbers else ""

        return until(newest, seconds=DEADLINE, what=f"a pod of item {item}")

    def signal_agent(self, item: int, number: signal.Signals) -> None:
        """A real signal to the agent of an item."""
        containers.kill(self.perdure.cluster, self.namespace, self.pod_of(item), "agent", number)

    def delete_at_once(self, pod: str) -> None:
        """Force-delete a pod: its object is gone before its processes are."""
        self.run.kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")

    # --- parts of the chart

    def kill(self, pod: str, component: str) -> None:
        """`kill -9` of a part of the chart; returns when it is back."""
        before = self.perdure.restarts(component)
        containers.kill(self.perdure.cluster, NAMESPACE, pod, component, signal.SIGKILL)
        self.perdure.until_back(component, restarts=before + 1)

    @contextmanager
    def frozen(self, pod: str, component: str) -> Iterator[None]:
        """A part of the chart with all its processes stopped, and its connections open."""
        cluster = self.perdure.cluster
        containers.signal_all(cluster, NAMESPACE, pod, component, signal.SIGSTOP)
        try:
            yield
        finally:
            containers.signal_all(cluster, NAMESPACE, pod, component, signal.SIGCONT)

    def part(self, component: str) -> str:
        """Name of the component's one pod."""
        (pod,) = self.perdure.pods(component)
        return str(pod["metadata"]["name"])

    def leader(self) -> str:
        """Name of the pod that holds the Lease."""

        def holder() -> str:
            lease = self.perdure.get("lease", "perdure-operator", "-n", NAMESPACE)
            names = {pod["metadata"]["name"] for pod in self.perdure.pods("operator")}
            found = str(lease["spec"].get("holderIdentity") or "")
            return found if found in names else ""

        return until(holder, seconds=DEADLINE, what="a leader")

    # --- programs of the cluster

    def kill_program(self, name: str) -> None:
        """`kill -9` of a part of Kubernetes, which comes back after a while."""
        cluster = self.perdure.cluster
        cluster.kill(name)
        try:
            time.sleep(AWAY)
        finally:
            cluster.restart(name)

    @contextmanager
    def frozen_program(self, name: str) -> Iterator[None]:
        """A part of Kubernetes that is stopped, with its connections open."""
        cluster = self.perdure.cluster
        cluster.kill(name, signal.SIGSTOP)
        try:
            yield
        finally:
            cluster.kill(name, signal.SIGCONT)
            cluster.await_component(name)

    # --- the node

    @contextmanager
    def cordoned(self) -> Iterator[None]:
        """No pod is scheduled meanwhile."""
        node = str(self.perdure.cluster.facts["node"])
        self.perdure.ok("cordon", node)
        try:
            yield
        finally:
            self.perdure.ok("uncordon", node)

    def drain(self) -> None:
        """Evict the run's pods from the node, as for its maintenance, and then let it be used again."""
        node = str(self.perdure.cluster.facts["node"])
        options = (f"--pod-selector=perdure.dev/workflow={self.run.name}", "--force", "--timeout=60s")
        try:
            self.perdure.ok("drain", node, "--ignore-daemonsets", *options, seconds=90)
        finally:
            self.perdure.ok("uncordon", node)


def until_ready(perdure: Installation, component: str, count: int) -> None:
    """Wait until the component has so many pods, all of them ready."""
    what = f"{count} ready pods of {component}"
    until(lambda: _all_ready(perdure, component, count), seconds=DEADLINE, what=what)


def _all_ready(perdure: Installation, component: str, count: int) -> bool:
    pods = perdure.pods(component)
    return len(pods) == count and all(map(ready, pods))


#: Disturbs a run that has been applied; raises AssertionError if that is not possible.
Inject = Callable[[Stage], None]
