"""The world of the storm: the applied workloads, the end of all faults, and what must hold after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perdure.domain.payloads import value_of
from perdure.domain.phases import Phase
from tests.fakes.apiserver import Object
from tests.fakes.operators import Operator
from tests.fakes.world import World
from tests.simulated.storm.oddities import Oddities
from tests.simulated.storm.senders import Senders
from tests.simulated.storm.workloads import Workload
from tests.support.echo import WITH_ECHO

#: Seconds until an operator that has ended is started again.
KUBELET_LOOKS = 5.0


@dataclass(slots=True, eq=False)
class Applied:
    """A run that was applied."""

    name: str
    uid: str
    workload: Workload
    #: It was cancelled or deleted: it need not succeed.
    disturbed: bool = False
    deleted: bool = False


class StormWorld(World):
    """A world whose faults a seed draws, and which must come to rest once they end."""

    def __init__(self, seed: int, *, trace: Callable[[str], None] | None = None) -> None:
        super().__init__(seed, None, kinds=WITH_ECHO, trace=trace)
        #: Operators that were killed: nothing of them runs on.
        self.removed: list[Operator] = []
        self.applied: list[Applied] = []
        self.senders = Senders(self, seed)
        self.oddities = Oddities(self, seed)
        faults = self.faults
        self.leases = faults.chance(0.5)
        if self.leases:
            faults.sudden["freeze operator"] = 4.0  # nothing else resumes a leader that was deposed
        self.guarantees.limit = faults.choice([None, None, 2, 3])
        self.behaviour.finishes = 0.2
        self.behaviour.work = faults.choice([(0.05, 1.0), (0.05, 6.0), (2.0, 12.0)])

    def leader(self) -> Operator | None:
        """An operator that leads, or believes that it does."""
        return next((operator for operator in self.operators if operator.loop.reconciling), None)

    async def restart(self, operator: Operator, seconds: float) -> None:
        """Start another operator in place of one that was killed."""
        if operator in self.operators:
            await asyncio.sleep(seconds)
            if operator in self.operators:
                self.remove(operator)
                self.start_operator()

    def remove(self, operator: Operator) -> None:
        operator.kill()
        self.operators.remove(operator)
        self.removed.append(operator)

    def apply_workload(self, name: str, workload: Workload) -> None:
        """Apply a workload, unless there is an object of this name."""
        if self.find(workload.kind, name) is None:
            uid = self.apply(name, workload.spec, kind=workload.kind)
            self.applied.append(Applied(name, uid, workload))
            self.senders.send(uid, workload.signals)

    # --- after the storm

    def quiesce(self) -> None:
        """End all faults, and bring back every server and process."""
        faults = self.faults
        faults.quiesced = True
        faults.error_bursts = dict.fromkeys(faults.error_bursts, 0)
        self.senders.hold()
        self.oddities.quiesce()
        self.api.quota_used_up = False
        self.api.refusal = None
        self.api.catch_up()
        self.api.come_back()
        self.ledger.come_back()
        for gateway in self.gateways:
            if gateway.away:
                gateway.restart()
            gateway.process.resume()
        for pod in list(self.nodes.pods.values()):
            pod.thaw()
        self.nodes.heal()
        self._see_to_operators()

    def _see_to_operators(self) -> None:
        """Make sure that one operator leads; resume the frozen ones."""
        for operator in list(self.operators):
            operator.process.fuse = None
            if operator.watch in self.api.watches:
                operator.process.resume()
                operator.watch.relist()
            else:
                self.remove(operator)
        # An operator that resumes may find that its Lease has expired, and end. With a Lease, too, such an
        # operator is started again, or none would lead.
        self.nodes.start(self._keep_operator())
        if self.leases and self.operators:
            return
        # Without a Lease no operator takes over: the newest is the leader, and may have been killed.
        for operator in list(self.operators):
            if not operator.alive:
                self.remove(operator)
        self.start_operator()

    async def _keep_operator(self) -> None:
        """What a kubelet does: start an operator again when it has ended, deposed.

        That comes to pass even in peace: the last request of one that was killed may have been on its way.
        """
        while True:
            await asyncio.sleep(KUBELET_LOOKS)
            if not any(operator.alive for operator in self.operators):
                self.start_operator()

    def paused(self) -> list[Applied]:
        """Runs whose desired state is Paused."""
        return [
            run
            for run in self.applied
            if (obj := self._object(run)) is not None and obj["spec"].get("desiredState") == "Paused"
        ]

    def rests(self, run: Applied) -> bool:
        """Whether a run that is to be paused has no live pod."""
        model = self.guarantees.runs.get(run.uid)
        still = model is not None and (model.run.phase is Phase.PAUSED or model.run.phase.terminal)
        return still and not self.pods(run.uid)

    def unfinished(self) -> list[str]:
        """Names of runs that have not ended, or whose status does not say so."""
        found = [model.run.name for model in self.guarantees.runs.values() if not model.run.phase.terminal]
        return found + [run.name for run in self.applied if not self._status_written(run)]

    def strays(self) -> list[str]:
        """Objects that should have been deleted."""
        uids = {obj["metadata"]["uid"] for obj in self.api.objects.values()}
        orphans = [
            f"{kind} {name}"
            for (kind, _, name), obj in self.api.objects.items()
            if any(owner["uid"] not in uids for owner in obj["metadata"].get("ownerReferences") or ())
        ]
        kept_too_long = [pod for pod in self.api.all("Pod") if not self._may_stay(pod)]
        return orphans + [f"Pod {pod['metadata']['name']}" for pod in self.pods() + kept_too_long]

    def _may_stay(self, pod: Object) -> bool:
        """Whether the retention of its run lets the pod of an ended attempt stay."""
        counts = self.guarantees.counts
        if counts["kill operator"] or counts["second leader"] or counts["freeze operator"]:
            # A new operator does not reconcile runs that have ended: such pods are deleted with their run.
            return True
        metadata = pod["metadata"]
        if metadata["uid"] in self.oddities.tampered:
            return True
        model = self.guarantees.runs.get(self.nodes.run_of.get(metadata["uid"], ""))
        if model is None or model.plan.pod_retention == "Always":
            return True
        outcomes = {
            attempt.pod_uid: attempt.outcome for attempts in model.attempts.values() for attempt in attempts
        }
        succeeded = outcomes.get(metadata["uid"]) is Phase.SUCCEEDED
        return model.plan.pod_retention == "OnFailure" and not succeeded

    def _object(self, run: Applied) -> Object | None:
        obj = self.find(run.workload.kind, run.name)
        return obj if obj is not None and obj["metadata"]["uid"] == run.uid else None

    def _status_written(self, run: Applied) -> bool:
        """Whether the statuses of a run and of its tasks say how each ended."""
        obj = self._object(run)
        if obj is None:
            return True
        model = self.guarantees.runs.get(run.uid)
        if model is None or (obj.get("status") or {}).get("phase") != model.run.phase:
            return False
        if not self.leases:
            return True  # a deposed leader may overwrite the status of a task, and no later pass repairs it
        phases = {task.name: task.phase for task in model.tasks.values()}
        return all(
            (task.get("status") or {}).get("phase") == phases.get(task["metadata"]["name"])
            for task in self.api.all("AgentTask")
            if self.nodes.run_of.get(task["metadata"]["uid"]) == run.uid
            and task["metadata"]["name"] in phases
            and not self.oddities.may_stay_changed(task, model.run.finished_at)
        )

    def check_results(self) -> None:
        """Check that every run has the outputs that it has in a world without faults."""
        for run in self.applied:
            model = self.guarantees.runs.get(run.uid)
            if model is None:
                continue
            ended = model.run
            if run.workload.outputs is None:
                continue
            self.guarantees.demand(
                ended.phase is Phase.SUCCEEDED or run.disturbed,
                f"{run.name} ended as {ended.phase}: {ended.reason} {ended.message}",
            )
            if ended.phase is Phase.SUCCEEDED:
                outputs: Any = value_of(ended.outputs)
                expected = run.workload.outputs
                if callable(expected):
                    expected = expected(
                        {
                            key: value_of(model.tasks[key].output)
                            for key in run.workload.signals
                            if key in model.tasks
                        }
                    )
                if run.workload.kind == "AgentTask":
                    (task,) = model.tasks.values()
                    outputs = value_of(task.output)
                self.guarantees.demand(outputs == expected, f"{run.name} gave {outputs}")
