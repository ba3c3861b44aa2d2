"""A live run with store, actuator and observer, on a cluster without faults."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from tests.fakes.clock import now
from tests.fakes.clock import run as on_virtual_time
from tests.fakes.cluster import Cluster
from tests.unit.control.lives import Live
from tests.unit.control.objects import obj
from tests.unit.domain.builders import UID

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.evaluation.in_process import InProcessEvaluator
from perdure.control.live_run import LiveRun
from perdure.control.runs.actuator import Actuator
from perdure.control.runs.executor import ExecutorContext, Executors
from perdure.control.runs.observer import Observer
from perdure.control.runs.payloads import PayloadReader, RunEvaluator
from perdure.domain.engine.decide import Decision
from perdure.domain.engine.observed import Observed
from perdure.domain.records import (
    AttemptRecord,
    ChildClaim,
    Report,
    RunRecord,
    RunUpdates,
    TaskKey,
    Vitals,
)
from perdure.steps import KINDS

NAMESPACE = "team"
A = TaskKey("a")

Result = TypeVar("Result")


def executors(*, store: Store, kube: Any, ledger: Any = None) -> Executors:
    """The executors of all step kinds, acting on a cluster of a test."""
    payloads = PayloadReader(ledger)
    context = ExecutorContext(
        evaluator=RunEvaluator(InProcessEvaluator(), payloads),
        payloads=payloads,
        store=store,
        kube=kube,
        ledger=ledger,
        clock=now,
        gateway_url="http://gateway",
        gateway_ca=lambda: None,
        audience="perdure",
    )
    return Executors(KINDS, context)


class RecordingCluster(Cluster):
    """A cluster that records its calls, and refuses creates of the kinds in `refuse`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self.refuse: dict[str, Exception] = {}
        #: Refusals of creates, and seconds until creates are answered, by the object's name.
        self.refuse_name: dict[str, Exception] = {}
        self.slow: dict[str, float] = {}

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        self.calls.append(("get", kind))
        return await super().get(kind, namespace, name)

    async def list(self, kind: str, **options: Any) -> Any:
        self.calls.append(("list", kind))
        return await super().list(kind, **options)

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        self.calls.append(("create", kind))
        name = body["metadata"]["name"]
        await asyncio.sleep(self.slow.get(name, 0.0))
        if kind in self.refuse:
            raise self.refuse[kind]
        if name in self.refuse_name:
            raise self.refuse_name[name]
        return await super().create(kind, namespace, body, brief=brief)

    async def delete(self, kind: str, namespace: str, name: str, **options: Any) -> None:
        self.calls.append(("delete", kind))
        await super().delete(kind, namespace, name, **options)


class RecordingLedger:
    """The ledger as far as observer and actuator use it; records what was recorded and queried."""

    def __init__(self, live: Live) -> None:
        self._live = live
        #: Uids of pods and children that were recorded, by task.
        self.recorded: dict[TaskKey, str] = {}
        self.reports: dict[TaskKey, tuple[int, Report]] = {}
        self.vitals: tuple[Vitals, ...] = ()
        self.runs: dict[str, RunRecord] = {}
        #: Children that the root run may still have, and how many Workflows are above this run.
        self.room, self.depth = 1, 0
        #: Names of the queries.
        self.asked: list[str] = []

    async def record_pod(self, uid: str, attempt: AttemptRecord, *, pod_uid: str, epoch: int) -> None:
        self.recorded[attempt.key] = pod_uid

    async def claim_child(
        self, parent: RunRecord, attempt: AttemptRecord, *, owner_uid: str | None, most: int
    ) -> ChildClaim:
        self.asked.append("claim_child")
        return ChildClaim(granted=self.room > 0, depth=self.depth)

    async def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        self.asked.append("updates")
        fresh = tuple(seen for seen in self.vitals if since is None or seen.changed_at > since)
        return RunUpdates(version=self._live.run.version, reports=self.reports, vitals=fresh)

    async def outcomes(self, uids: Sequence[str]) -> dict[str, RunRecord]:
        self.asked.append("outcomes")
        return {uid: self.runs[uid] for uid in uids if uid in self.runs}


class ControlLoopFixture:
    """A run, its cluster, and the parts of the control loop between them."""

    def __init__(self, *steps: dict[str, Any], depth: int = 0, **fields: Any) -> None:
        #: The run as its decisions have made it.
        self.history = Live(*steps, **fields)
        self.cluster = RecordingCluster()
        self.ledger = RecordingLedger(self.history)
        #: Whether watch events arrive.
        self.receives_events = True
        self.cluster.watch(self._handle)
        self.cluster.api.other_owners.add(UID)
        self.live.objects.index(self.history.attempts.values())
        self._root = obj(self.history.run.name, 1, uid=UID, spec={})
        self._root["metadata"]["annotations"] = {"perdure.dev/depth": str(depth)}
        self._start()

    @property
    def live(self) -> LiveRun:
        return self.history.live

    def _start(self) -> None:
        self.store = Store()
        self.store.apply(self.history.run.kind, self._root)
        common: dict[str, Any] = {"store": self.store, "kube": self.cluster, "ledger": self.ledger}
        self.executors = executors(**common)
        #: Runs that the actuator had reconciled again.
        self.woken: list[RunKey] = []
        self.actuator = Actuator(ledger=common["ledger"], executors=self.executors, wake=self.woken.append)
        self.observer = Observer(store=self.store, ledger=common["ledger"], executors=self.executors)

    def _handle(self, kind: str, seen: Mapping[str, Any], deleted: bool) -> None:
        if not self.receives_events:
            return
        metadata = seen["metadata"]
        if deleted:
            self.store.remove(kind, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        else:
            self.store.apply(kind, seen)

    # --- what the loop does

    async def ensure(self, *keys: TaskKey) -> None:
        # What was blocked is created again when its time has come: here, at once.
        now = max(self.history.now, self.live.agenda.retry_blocked_at or self.history.now)
        await self.actuator.ensure(self.live, keys or sorted(self.history.view.live), now=now, epoch=1)
        for key, uid in self.ledger.recorded.items():
            number = self.history.view.attempts[key].number
            self.history.attempts[key, number] = replace(self.history.attempts[key, number], pod_uid=uid)

    async def observe(self) -> Observed:
        return await self.observer.observe(self.live, self.history.now)

    async def step(self) -> Decision:
        """One pass: observe, decide, act."""
        observed = await self.observe()
        decision = self.history.decide(observed)
        if decision.commit is not None:
            self.live.objects.index(decision.commit.attempts)
        await self.ensure(*observed.pods, *(() if decision.commit is None else [A]))
        return decision

    # --- what is there

    def names(self, kind: str) -> list[str]:
        return [made["metadata"]["name"] for made in self.cluster.all(kind)]

    def only(self, kind: str) -> dict[str, Any]:
        (found,) = self.cluster.all(kind)
        return found

    def attempt(self, key: TaskKey = A) -> AttemptRecord:
        return self.history.view.attempts[key]

    def restart(self, *, pods: bool = True) -> None:
        """Restart the operator: it loads the ledger and relists, without pods if `pods` is False."""
        live = self.live
        self.history.live = type(live)(key=live.key, view=live.view, generation=live.generation)
        self.live.objects.index(self.history.view.attempts.values())
        self._start()
        for kind in ("AgentTask", "Pod") if pods else ("AgentTask",):
            for seen in self.cluster.all(kind):
                self.store.apply(kind, seen)

    def remove(self, kind: str, name: str) -> None:
        self.cluster.remove(kind, NAMESPACE, name)

    def set_pod(self, name: str, state: dict[str, Any], phase: str = "Running") -> None:
        """Write the status that the kubelet writes for the agent's container."""
        found = self.cluster.stored("Pod", name, NAMESPACE)
        assert found is not None
        status = {"phase": phase, "containerStatuses": [{"name": "agent", "state": state}]}
        self.cluster.set_status("Pod", NAMESPACE, name, found["metadata"]["uid"], status)


def played(scenario: Coroutine[Any, Any, Result]) -> Result:
    """Run a scenario on virtual time."""
    return on_virtual_time(scenario)
