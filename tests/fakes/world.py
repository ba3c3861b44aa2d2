"""One world: API server, nodes, ledger, gateways and operators, and what people do and see in it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from perdure.api import API_VERSION
from perdure.control.evaluation.in_process import InProcessEvaluator
from perdure.control.pass_journal import SIZE
from perdure.control.ports import EvaluatorPort
from perdure.control.runs.executor import ActingKind
from perdure.domain.events import EventType
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AttemptRecord, RunRecord, StepRecord, TaskKey, TaskRecord
from perdure.steps import KINDS
from tests.fakes.agents import Agent, Behaviour, output_of
from tests.fakes.apiserver import NAMESPACE, ApiServer, Object
from tests.fakes.clock import now
from tests.fakes.faults import NONE, Faults, Profile
from tests.fakes.gateway import Client, Gateway
from tests.fakes.guarantees import Guarantees
from tests.fakes.ledger import FakeLedger, WrittenEvent
from tests.fakes.model import PodTruth
from tests.fakes.nodes import Nodes
from tests.fakes.operators import Operator
from tests.support.shown import shown
from tests.support.waiting import until


class World:
    """Everything that one seed decides about."""

    def __init__(
        self,
        seed: int,
        profile: Profile | None = NONE,
        *,
        limit: int | None = None,
        kinds: tuple[ActingKind, ...] = KINDS,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        """Without a profile the seed draws one. `limit`: attempts of agents that may be open at once.

        `kinds`: the registry of step kinds.

        `trace` receives a line for every event, for people to read.
        """
        random.seed(seed)  # jitter in the product
        self.faults = Faults(seed, profile)
        self.guarantees = Guarantees(now, trace)
        self.guarantees.limit = limit
        self.api = ApiServer(self.faults)
        if trace is not None:
            self.api.trace = self.guarantees.note
        self.nodes = Nodes(self.api, self.faults, self.guarantees, self._agent)
        self.ledger = FakeLedger(self.faults, self.guarantees, self.nodes.maker_of.get)
        self.gateways = [Gateway(self.ledger, self.faults) for _ in range(2)]
        self.behaviour = Behaviour()
        self.operators: list[Operator] = []
        #: Whether operators take a Lease before they work. Without, only the ledger keeps them apart.
        self.leases = False
        #: The file of the pod in which operators mark their passes.
        self.journal = bytearray(SIZE)
        self.evaluator: EvaluatorPort = InProcessEvaluator()
        #: Namespaces that operators watch; all if empty.
        self.namespaces: tuple[str, ...] = ()
        self._kinds = kinds
        self._started = 0

    def _agent(self, pod: Object, truth: PodTruth) -> Agent:
        client = Client(self.gateways, self.ledger, self.faults, pod)
        return Agent(pod, truth, client, self.faults, self.behaviour)

    # --- operators

    @property
    def operator(self) -> Operator | None:
        """The newest operator that has not been killed."""
        return self.operators[-1] if self.operators else None

    def start_operator(self) -> Operator:
        self._started += 1
        operator = Operator(
            f"operator-{self._started}",
            api=self.api,
            ledger=self.ledger,
            guarantees=self.guarantees,
            leases=self.leases,
            limit=self.guarantees.limit,
            kinds=self._kinds,
            namespaces=self.namespaces,
            journal=self.journal,
            evaluator=self.evaluator,
        )
        self.operators.append(operator)
        operator.start()
        return operator

    def die(self) -> None:
        """The process of the operator dies in the midst of the code that calls this."""
        assert self.operator is not None
        # What the code still does until its next wait is done by a process that is dead.
        self.journal = bytearray(self.journal)
        self.operators.pop().kill()

    async def kill_operator(self) -> None:
        """SIGKILL for every operator: requests that were sent still arrive, nothing in memory survives.

        Raises what an operator had ended with before.
        """
        operators, self.operators = self.operators, []
        for operator in operators:
            operator.kill()
            operator.raise_failure()

    async def close(self) -> None:
        """End the world. Raises AssertionError for a broken guarantee, or what an operator failed with."""
        await self.kill_operator()
        assert self.guarantees.violation is None, self.guarantees.violation

    # --- what people do

    def apply(
        self, name: str, spec: Mapping[str, Any], *, kind: str = "Workflow", namespace: str = NAMESPACE
    ) -> str:
        """What `kubectl apply` does with a new object. Returns its uid."""
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        return str(self.api.create(kind, namespace, body)["metadata"]["uid"])

    def desire(self, name: str, state: str, *, kind: str = "Workflow") -> None:
        """What `kubectl patch` does to `spec.desiredState`."""
        assert self.find(kind, name) is not None, name
        self.api.desire(kind, name, state)

    # --- what people see

    def find(self, kind: str, name: str, namespace: str = NAMESPACE) -> Object | None:
        return self.api.objects.get((kind, namespace, name))

    def pods(self, run_uid: str | None = None) -> list[Object]:
        """Pods that have not ended, of one run or of all."""
        return [
            pod
            for pod in self.api.all("Pod")
            if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
            and run_uid in (None, self.nodes.run_of.get(pod["metadata"]["uid"]))
        ]

    def status(self, name: str, *, kind: str = "Workflow") -> dict[str, Any]:
        found = self.find(kind, name)
        return {} if found is None else found.get("status") or {}

    def status_written(self, name: str) -> bool:
        """Whether the statuses of an ended Workflow and of all its tasks say what the ledger says."""
        found = self.find("Workflow", name)
        assert found is not None, name
        uid = found["metadata"]["uid"]
        tasks = [
            task
            for task in self.tasks(uid).values()
            if task.attempt
            and self.kind_of(uid, task.key) == "agent"
            # A task that was cancelled before its object was created has none.
            and (task.phase is not Phase.CANCELLED or self.find("AgentTask", task.name) is not None)
        ]
        return self.status(name).get("phase") == self.record(uid).phase and all(
            self.status(task.name, kind="AgentTask").get("phase") == task.phase for task in tasks
        )

    @property
    def pods_created(self) -> Counter[str]:
        """How many pods each attempt had, by the name of its pod or Job."""
        return Counter(f"{truth.task}-{truth.attempt}" for truth in self.guarantees.truths.values())

    # --- what the ledger has

    def record(self, uid: str) -> RunRecord:
        return self.ledger.rows[uid].run

    def steps(self, uid: str) -> Mapping[str, StepRecord]:
        return self.ledger.rows[uid].steps if uid in self.ledger.rows else {}

    def tasks(self, uid: str) -> Mapping[TaskKey, TaskRecord]:
        """Tasks with the values of their payloads."""
        tasks = self.ledger.rows[uid].tasks if uid in self.ledger.rows else {}
        return {key: shown(task) for key, task in tasks.items()}

    def attempts(self, uid: str) -> Mapping[tuple[TaskKey, int], AttemptRecord]:
        return self.ledger.rows[uid].attempts if uid in self.ledger.rows else {}

    def events(self, uid: str) -> list[WrittenEvent]:
        return self.ledger.rows[uid].events

    def kind_of(self, uid: str, key: TaskKey) -> str:
        """The kind of a task's step: agent, wait or workflow."""
        spec = self.record(uid).spec
        steps = [*spec["steps"], *(spec.get("finally") or ())]
        step = next(step for step in steps if step["name"] == key.step)
        return next((kind for kind in ("wait", "workflow") if kind in step), "agent")

    async def until_ended(self, uids: list[str], *, seconds: float = 3600.0) -> list[RunRecord]:
        """Wait in virtual time until all runs have ended. Raises AssertionError if they do not."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            ended = [
                self.record(uid)
                for uid in uids
                if uid in self.ledger.rows and self.record(uid).phase.terminal
            ]
            if len(ended) == len(uids):
                return ended
            stuck = [self.ledger.rows.get(uid) for uid in uids]
            assert asyncio.get_running_loop().time() < deadline, f"runs do not end: {stuck}"
            assert self.guarantees.violation is None, self.guarantees.violation
            await asyncio.sleep(0.5)

    # --- what must hold of runs that have ended

    def check(self, uids: list[str]) -> None:
        """The guarantees that show in the ledger once all of these runs have ended."""
        assert self.guarantees.violation is None, self.guarantees.violation
        for uid in uids:
            for key, task in self.tasks(uid).items():
                self._check_task(uid, key, task)
            events = self.events(uid)
            ended = Counter(event.task for event in events if event.type == EventType.TASK_SUCCEEDED)
            assert all(number == 1 for number in ended.values()), f"tasks succeeded twice: {ended}"
            pauses = (EventType.WORKFLOW_PAUSED, EventType.WORKFLOW_RESUMED)
            types = [event.type for event in events if event.type not in pauses]
            assert sum(kind.startswith("workflow.") for kind in types) in (0, 2, 3), types
        # An attempt gets a second pod only after its first was ended from outside: the operator may have died
        # between the creation of that pod and the record of its uid, and then cannot know of it.
        outside = Counter(
            f"{truth.task}-{truth.attempt}" for truth in self.guarantees.truths.values() if truth.outside
        )
        twice = {name: number for name, number in self.pods_created.items() if number > 1 + outside[name]}
        assert not twice, f"pods of one attempt were created twice: {twice}"

    def _check_task(self, uid: str, key: TaskKey, task: TaskRecord) -> None:
        assert task.phase.terminal, f"{key} did not end"
        attempts = sorted(number for other, number in self.attempts(uid) if other == key)
        assert attempts == list(range(1, len(attempts) + 1)), f"{key}: attempts {attempts}"
        if self.kind_of(uid, key) != "agent" or task.reason is Reason.CACHED:
            return
        paused = sum(
            attempt.reason is Reason.PAUSED
            for (other, _), attempt in self.attempts(uid).items()
            if other == key
        )
        lost = task.retries + task.disruptions + paused
        if task.phase is Phase.SUCCEEDED:
            assert len(attempts) == 1 + lost, f"{key}: {len(attempts)} attempts, {lost} of them lost"
            assert task.output == output_of(key.step, None if key.index < 0 else str(key.index)), task
        truths = [truth for truth in self.guarantees.truths.values() if truth.task == task.name]
        disrupted = len({truth.attempt for truth in truths if truth.outside or truth.code in (75, 76)})
        failed = len({truth.attempt for truth in truths if truth.code})
        assert task.disruptions <= disrupted, f"{key}: {task.disruptions} disruptions of {disrupted}"
        assert task.retries <= failed, f"{key}: {task.retries} retries for {failed} failures"


async def eventually(check: Callable[[], Any], *, seconds: float = 120.0) -> None:
    """Wait in virtual time until `check()` is true. Raises TimeoutError if it does not become so."""
    await until(check, within=seconds, poll=0.25)
