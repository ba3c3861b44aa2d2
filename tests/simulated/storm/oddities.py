"""The oddities: what people, controllers and restarts do to the objects of a run and its evaluations.

Oddities have a source of chance of their own, and only some seeds have them. The history of every other seed
is the same as in a world without oddities.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from perdure.control.evaluation.in_process import InProcessEvaluator
from perdure.domain.expressions.evaluation import Answer, EvaluationRequest
from perdure.domain.kube_objects import controlling_owner
from perdure.domain.names import LABEL_ATTEMPT, LABEL_MANAGED_BY, LABEL_SHARD, LABEL_TASK, LABEL_WORKFLOW
from tests.fakes.apiserver import NAMESPACE, Object
from tests.fakes.clock import now
from tests.fakes.jobs import job_of
from tests.fakes.nodes import Pod

if TYPE_CHECKING:
    from tests.simulated.storm.world import Applied, StormWorld

Item = TypeVar("Item")

#: A divisor and the remainders of the seeds with oddities: about one in three. The seeds of older mutations
#: and those in `FAILED_ONCE` have other remainders, so their histories stay the same.
_WITH_ODDITIES: Final = (23, {5, 7, 8, 9, 11, 13, 15, 18})
#: What `kubectl label --overwrite` changes of a pod; None removes a label.
LABELS: Final[Sequence[Mapping[str, str | None]]] = (
    {LABEL_MANAGED_BY: "other"},
    {LABEL_MANAGED_BY: None},
    {LABEL_SHARD: "63"},
    {LABEL_SHARD: None},
    {LABEL_WORKFLOW: "another"},
    {LABEL_TASK: "another"},
    {LABEL_TASK: None},
    {LABEL_ATTEMPT: "7"},
    dict.fromkeys((LABEL_MANAGED_BY, LABEL_SHARD, LABEL_WORKFLOW, LABEL_TASK, LABEL_ATTEMPT)),
)
#: What others make of a status.
STATUSES: Final[Sequence[Callable[[Object], Object]]] = (
    lambda status: {},
    lambda status: {**status, "phase": "Succeeded"},
    lambda status: {**status, "observedGeneration": 99},
    lambda status: {"phase": "Pending", "message": "mine"},
    lambda status: {
        "phase": "Succeeded",
        "conditions": [{"type": "Complete", "status": "True", "reason": "Succeeded"}],
    },
    lambda status: {"phase": "Failed", "conditions": [{"type": "Failed", "status": "True"}]},
)


#: How many of them, the last ones, are whole final statuses.
FINAL: Final = 2


#: Two relists: what others wrote to a task is found by then.
BEFORE_THE_END: Final = timedelta(seconds=80)


def has_oddities(seed: int) -> bool:
    """Whether the world of a seed has oddities."""
    divisor, remainders = _WITH_ODDITIES
    return seed % divisor in remainders


class Oddities:
    """Draws oddities until the faults end, and then takes back what would last."""

    def __init__(self, world: StormWorld, seed: int) -> None:
        self._world = world
        self._random = random.Random(f"oddities of {seed}")
        actions: dict[str, Callable[[], None]] = {
            "relabel pod": self._relabel_pod,
            "disown pod": self._disown_pod,
            "release pod from Job": self._release_pod,
            "annotate": self._annotate,
            "disown task": self._disown_task,
            "suspend Job": lambda: self._soon(self._suspend_job()),
            "change Job": self._change_job,
            "hold deleted run": lambda: self._soon(self._hold_run()),
            "orphan tasks": self._orphan,
            "change status": self._change_status,
            "refuse deletions": lambda: self._soon(self._refuse_deletions()),
            "forbid namespace": lambda: self._soon(self._forbid()),
        }
        # With every oddity in every seed, the rare ones would drown in the noise of the others.
        self._actions = {name: act for name, act in actions.items() if self._random.random() < 0.4}
        if not self._actions:
            self._actions = actions
        self._pace = 2.0 + 10.0 * self._random.random()
        #: Uids of pods that lost what the operator finds them by once their run has ended.
        self.tampered: set[str] = set()
        #: When the status of a task was changed last, by the uid of its AgentTask.
        self.changed_at: dict[str, datetime] = {}
        self._held: list[Applied] = []
        self._suspended: dict[str, str] = {}
        if has_oddities(seed) and self._random.random() < 0.5:
            world.evaluator = MortalEvaluator(self._random)

    async def run(self) -> None:
        """Inject oddities until the faults end."""
        world = self._world
        while True:
            await asyncio.sleep(min(self._random.expovariate(1 / self._pace), 30.0))
            await world.api.back.wait()
            if world.faults.quiesced:
                return
            name = self._choice(list(self._actions))
            world.guarantees.counts[name] += 1
            world.guarantees.note(f"*** {name}")
            self._actions[name]()

    def quiesce(self) -> None:
        """Take back what would last: finalizers, suspensions, refusals."""
        api = self._world.api
        api.undeletable.clear()
        for namespace in list(api.forbidden):
            api.allow(namespace)
        for name, uid in list(self._suspended.items()):
            self._resume_job(name, uid)
        for run in self._held:
            api.remove(run.workload.kind, NAMESPACE, run.name, uid=run.uid)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        self._world.nodes.start(work)

    def _choice(self, items: Sequence[Item]) -> Item:
        return items[int(self._random.random() * len(items))]

    # --- pods and tasks

    def _pod(self) -> Pod | None:
        pods = self._world.nodes.running()
        return self._choice(pods) if pods else None

    def _relabel_pod(self) -> None:
        pod = self._pod()
        if pod is None:
            return
        labels = self._choice(LABELS)
        self.tampered.add(pod.truth.uid)
        before = dict(pod.obj["metadata"]["labels"])
        self._world.api.relabel(pod.obj, "Pod", labels)
        if self._random.random() < 0.4:
            restored = {name: before.get(name) for name in labels}
            delay = self._random.random() * 20.0
            loop = asyncio.get_running_loop()
            loop.call_later(delay, self._world.api.relabel, pod.obj, "Pod", restored)

    def _disown_pod(self) -> None:
        """Owner references are removed from a pod that the ledger has recorded."""
        pod = self._pod()
        if pod is None or pod.truth.uid not in self._recorded():
            return
        self.tampered.add(pod.truth.uid)
        if job_of(pod.obj) is None:
            self._world.api.relabel(pod.obj, "Pod", {}, ownerReferences=[])

    def _release_pod(self) -> None:
        pod = self._pod()
        if pod is not None and pod.truth.uid in self._recorded():
            self.tampered.add(pod.truth.uid)
            self._world.nodes.release_from_job(pod)

    def _recorded(self) -> set[str]:
        """Uids of pods of open attempts that the ledger knows."""
        return {
            attempt.pod_uid
            for rows in self._world.ledger.rows.values()
            for attempt in rows.attempts.values()
            if attempt.pod_uid is not None and attempt.closed_at is None
        }

    def _annotate(self) -> None:
        kind = self._choice(["Pod", "AgentTask", "Workflow"])
        objects = self._world.api.all(kind)
        if objects:
            annotations = {"example.com/note": self._choice(["a", "b", "ü" * 300])}
            self._world.api.relabel(self._choice(objects), kind, {}, annotations=annotations)

    def _disown_task(self) -> None:
        tasks = [task for task in self._world.api.all("AgentTask") if controlling_owner(task) is not None]
        if tasks:
            task = self._choice(tasks)
            self._world.api.relabel(task, "AgentTask", {}, ownerReferences=[])

    # --- Jobs

    async def _suspend_job(self) -> None:
        jobs = [job for job in self._world.api.all("Job") if "status" not in job]
        if not jobs:
            return
        metadata = self._choice(jobs)["metadata"]
        self._suspended[metadata["name"]] = metadata["uid"]
        self._world.api.set_spec("Job", NAMESPACE, metadata["name"], suspend=True)
        await asyncio.sleep(self._random.random() * 60.0)
        await self._world.api.back.wait()
        self._resume_job(metadata["name"], metadata["uid"])

    def _resume_job(self, name: str, uid: str) -> None:
        self._suspended.pop(name, None)
        job = self._world.find("Job", name)
        if job is not None and job["metadata"]["uid"] == uid:
            self._world.api.change(job, "Job", spec={**job["spec"], "suspend": False})

    def _change_job(self) -> None:
        jobs = [job for job in self._world.api.all("Job") if "status" not in job]
        if jobs:
            name = self._choice(jobs)["metadata"]["name"]
            self._world.api.set_spec("Job", NAMESPACE, name, backoffLimit=self._choice([1, 5]))

    # --- runs

    def _run(self) -> Applied | None:
        world = self._world
        there = [
            run
            for run in world.applied
            if not run.deleted
            and (obj := world.find(run.workload.kind, run.name)) is not None
            and obj["metadata"]["uid"] == run.uid
        ]
        return self._choice(there) if there else None

    async def _hold_run(self) -> None:
        """A run is deleted, and the finalizer of another controller holds its object."""
        run = self._run()
        if run is None:
            return
        run.disturbed = run.deleted = True
        self._held.append(run)
        api = self._world.api
        api.hold(run.workload.kind, NAMESPACE, run.name)
        await asyncio.sleep(self._random.random() * 60.0)
        await api.back.wait()
        api.remove(run.workload.kind, NAMESPACE, run.name, uid=run.uid)

    def _orphan(self) -> None:
        run = self._run()
        if run is None or run.workload.kind != "Workflow":
            return
        run.disturbed = run.deleted = True
        api = self._world.api
        api.orphan("Workflow", NAMESPACE, run.name)

    def _change_status(self) -> None:
        kind = self._choice(["Workflow", "AgentTask"])
        objects = self._world.api.all(kind)
        if objects:
            obj = self._choice(objects)
            self.changed_at[obj["metadata"]["uid"]] = now()
            # A whole final status is how an ended run is known to an operator whose ledger is another one.
            status = self._choice(STATUSES[: -FINAL if kind == "Workflow" else None])(
                dict(obj.get("status") or {})
            )
            self._world.api.change(obj, kind, status=status)

    def may_stay_changed(self, task: Object, ended: datetime | None) -> bool:
        """Whether the status of a task was changed when its run had ended, or so shortly before the end that
        no relist came between: the operator keeps no tasks of ended runs."""
        at = self.changed_at.get(task["metadata"]["uid"])
        return at is not None and (ended is None or ended < at + BEFORE_THE_END)

    # --- refusals

    async def _refuse_deletions(self) -> None:
        """A webhook refuses every deletion for a while."""
        self._world.api.undeletable.add(NAMESPACE)
        await asyncio.sleep(1.0 + self._random.random() * 60.0)
        self._world.api.undeletable.discard(NAMESPACE)

    async def _forbid(self) -> None:
        """A role binding is deleted, and restored after a while."""
        api = self._world.api
        if NAMESPACE in api.forbidden:
            return
        api.forbid(NAMESPACE, 403)
        await asyncio.sleep(1.0 + self._random.random() * 60.0)
        if NAMESPACE in api.forbidden:
            api.allow(NAMESPACE)


class MortalEvaluator(InProcessEvaluator):
    """Evaluation children that are slow, and die: a batch is then answered in part, or from its start."""

    def __init__(self, chance: random.Random) -> None:
        self._random = chance

    async def evaluate(self, namespace: str, requests: Sequence[EvaluationRequest]) -> Mapping[str, Answer]:
        await asyncio.sleep(self._random.choice([0.0, 0.01, 0.5, 5.0]) * self._random.random())
        answered = list(requests)
        while self._random.random() < 0.3:
            # A child has died at a request; another one starts with what is left.
            answered = answered[: 1 + int(self._random.random() * len(answered))]
            await asyncio.sleep(self._random.random())
        return await super().evaluate(namespace, answered)
