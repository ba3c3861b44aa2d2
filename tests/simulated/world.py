"""A simulated world: a cluster, a ledger, agents, and an operator that may be killed at any moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from perdure.api import API_VERSION
from perdure.control.loop import ControlLoop, LoopOptions
from perdure.domain.names import LABEL_ATTEMPT, LABEL_TASK
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import LedgerUnavailable, Report, RunRecord, Superseded, TaskKey
from perdure.kube.recorder import EventRecorder
from perdure.steps import KINDS
from tests.fakes.clock import now
from tests.simulated.chance import Chance, Odds
from tests.simulated.cluster import Kubelet, SimulatedCluster
from tests.simulated.ledger import SimulatedLedger

NAMESPACE = "default"


@dataclass(slots=True)
class Operator:
    """One life of the operator process: everything in it dies with it."""

    loop: ControlLoop
    task: asyncio.Task[None]


@dataclass(slots=True)
class World:
    """Everything that one seed decides about."""

    chance: Chance
    cluster: SimulatedCluster = field(init=False)
    ledger: SimulatedLedger = field(init=False)
    operator: Operator | None = field(default=None, init=False)
    #: Seconds that an agent works, at least and at most.
    work: tuple[float, float] = field(default=(0.01, 10.0), init=False)
    #: Seconds from an agent's report to the end of its container.
    exit_delay: float = field(default=0.0, init=False)
    #: Attempts that may be open at once: in all, and in any one namespace.
    limits: tuple[int | None, int | None] = field(default=(None, None), init=False)
    #: How often each agent's work was finished, by task and attempt.
    worked: Counter[tuple[str, int]] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self.cluster = SimulatedCluster(self.chance)
        self.ledger = SimulatedLedger(self.chance)
        Kubelet(self.cluster, self.chance, self._agent)

    # --- the operator

    def start_operator(self, *, template_timeout: float = 60.0) -> Operator:
        loop = ControlLoop(
            self.cluster,
            self.ledger,
            now,
            LoopOptions(
                identity="simulated",
                gateway_url="http://gateway",
                audience="perdure",
                workers=4,
                max_running_tasks=self.limits[0],
                max_running_tasks_per_namespace=self.limits[1],
                relist_interval=30.0,
                status_interval=1.0,
                template_timeout=template_timeout,
                lease=None,
            ),
            kinds=KINDS,
            recorder=EventRecorder(self.cluster, instance="simulated", enabled=False),
        )
        self.cluster.watch(loop.handle_event)
        self.operator = Operator(loop=loop, task=asyncio.create_task(loop.lead(asyncio.Event())))
        return self.operator

    async def kill_operator(self) -> None:
        """What kill -9 leaves behind: nothing of it runs on, and nothing in memory survives."""
        operator, self.operator = self.operator, None
        self.cluster.watch(None)
        if operator is not None:
            operator.task.cancel()
            (result,) = await asyncio.gather(operator.task, return_exceptions=True)
            if isinstance(result, Exception):
                raise result

    # --- agents

    async def _agent(self, pod: dict[str, Any]) -> tuple[int, str]:
        """An agent: works a while, then reports through the gateway or by its exit, or fails."""
        await asyncio.sleep(self.chance.between(*self.work))
        labels = pod["metadata"]["labels"]
        task, number = labels[LABEL_TASK], int(labels[LABEL_ATTEMPT])
        if self.chance.happens(self.chance.odds.agent_fails):
            return 1, "bad luck"
        self.worked[task, number] += 1
        if self.chance.happens(self.chance.odds.agent_reports):
            report = Report(outcome="Succeeded", output={"by": task}, at=now())
            for _ in range(200):
                place = self._place_of(task)
                try:
                    assert place is not None, "an agent runs of which the ledger knows nothing"
                    self.ledger.report(*place, number, report, pod_uid=pod["metadata"]["uid"])
                    break
                except LedgerUnavailable:
                    await asyncio.sleep(self.chance.between(0.5, 2.0))
                except Superseded:
                    return 76, ""
            await asyncio.sleep(self.exit_delay)
            return 0, ""
        return 0, f'{{"by": "{task}"}}'

    def _place_of(self, task: str) -> tuple[str, TaskKey] | None:
        for uid, tasks in self.ledger.tasks.items():
            for key, record in tasks.items():
                if record.name == task:
                    return uid, key
        return None

    # --- what people do and see

    def apply(self, name: str, spec: dict[str, Any], *, kind: str = "Workflow") -> str:
        """Apply an object. Returns its uid."""
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        return str(self.cluster.add(kind, NAMESPACE, body)["metadata"]["uid"])

    def desire(self, name: str, state: str, *, kind: str = "Workflow") -> None:
        """What `kubectl patch` does to `spec.desiredState`."""
        obj = self.cluster.find(kind, name)
        assert obj is not None, name
        obj["spec"]["desiredState"] = state
        obj["metadata"]["generation"] += 1
        self.cluster.changed(kind, NAMESPACE, name)

    def pods(self) -> list[dict[str, Any]]:
        """Pods that have not ended."""
        return [
            pod
            for pod in self.cluster.all("Pod")
            if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]

    def status(self, name: str, *, kind: str = "Workflow") -> dict[str, Any]:
        found = self.cluster.find(kind, name)
        return {} if found is None else found.get("status") or {}

    def shown(self, name: str) -> bool:
        """Whether the statuses of an ended run and of all its tasks say what the ledger says."""
        uid = self.cluster.find("Workflow", name)["metadata"]["uid"]  # type: ignore[index]
        tasks = [
            task
            for task in self.ledger.tasks[uid].values()
            if task.attempt
            and self.ledger.kind_of(uid, task.key) == "agent"
            # Cancelled before its object was made.
            and (task.phase is not Phase.CANCELLED or self.cluster.find("AgentTask", task.name) is not None)
        ]
        return self.status(name).get("phase") == self.ledger.runs[uid].phase and all(
            self.status(task.name, kind="AgentTask").get("phase") == task.phase for task in tasks
        )

    async def until_ended(self, uids: list[str], *, seconds: float = 3600.0) -> list[RunRecord]:
        """Wait in virtual time until all runs have ended. Raises AssertionError if they do not."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            runs = [self.ledger.runs.get(uid) for uid in uids]
            ended = [run for run in runs if run is not None and run.phase.terminal]
            if len(ended) == len(uids):
                return ended
            await asyncio.sleep(0.5)
        stuck = [self.ledger.runs.get(uid) for uid in uids]
        raise AssertionError(f"runs do not end: {stuck}; tasks: {dict(self.ledger.tasks)}")

    async def close(self) -> None:
        """End everything, and surface what went wrong beside."""
        await self.kill_operator()
        await self.cluster.stop()

    # --- what must always hold

    def check(self, uids: list[str]) -> None:
        """The guarantees, as far as they show when all runs have ended."""
        assert not self.ledger.violations, self.ledger.violations
        for uid in uids:
            for key, task in self.ledger.tasks[uid].items():
                assert task.phase.terminal, f"{key} did not end"
                attempts = sorted(number for other, number in self.ledger.attempts[uid] if other == key)
                assert attempts == list(range(1, len(attempts) + 1)), f"{key}: attempts {attempts}"
                if self.ledger.kind_of(uid, key) != "agent" or task.reason is Reason.CACHED:
                    continue
                paused = sum(
                    attempt.reason is Reason.PAUSED
                    for (other, _), attempt in self.ledger.attempts[uid].items()
                    if other == key
                )
                lost = task.retries + task.disruptions + paused
                if task.phase is Phase.SUCCEEDED:
                    assert len(attempts) == 1 + lost, f"{key}: {len(attempts)} attempts, {lost} of them lost"
                    assert task.output == {"by": task.name}, task
                disrupted, failed = self.cluster.disrupted[task.name], self.cluster.failed[task.name]
                assert task.disruptions <= disrupted, f"{key}: {task.disruptions} disruptions of {disrupted}"
                assert task.retries <= failed, f"{key}: {task.retries} retries for {failed} failures"
            ended = Counter(event.task for event in self.ledger.events[uid] if event.type == "task.succeeded")
            assert all(number == 1 for number in ended.values()), f"tasks succeeded twice: {ended}"
            pauses = ("workflow.paused", "workflow.resumed")
            types = [event.type for event in self.ledger.events[uid] if event.type not in pauses]
            assert sum(kind.startswith("workflow.") for kind in types) in (0, 2, 3), types
        # Between the making of a pod and the note of its uid the operator may die and the pod be deleted.
        # Nobody can know then that it ever was; it could write nothing, and it is made again.
        twice = {
            name: number
            for name, number in self.cluster.made.items()
            if number > 1 + self.cluster.disrupted[name.rpartition("-")[0]]
        }
        assert not twice, f"pods of one attempt were made twice: {twice}"


def world(seed: int, odds: Odds | None = None) -> World:
    """A world of its own for a seed."""
    return World(Chance(seed, odds or Odds()))


async def settled(check: Any, *, seconds: float = 120.0) -> None:
    """Wait in virtual time until `check()` is true."""
    deadline: float = asyncio.get_running_loop().time() + seconds
    while not check():
        assert asyncio.get_running_loop().time() < deadline, "it did not come about"
        await asyncio.sleep(0.25)
