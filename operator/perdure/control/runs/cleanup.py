"""Tidying: what a run need not keep in the cluster any longer.

Pods outlive their attempts, and ended tasks their use. What goes, and when, follows from the run's view and
the store alone, so that it is found again after a restart; a deletion that was lost is simply made again.
Nothing is taken for a disruption here, for only what belongs to closed attempts is ever deleted, by its uid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice

import structlog

from perdure.control.cluster_cache.recent import remember
from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort
from perdure.control.runs.deletion import Deletion, deletion_of_pod
from perdure.control.runs.executor import Executors
from perdure.domain.engine.plan import PodRetention
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.phases import TERMINAL, Phase, Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, AttemptRecord, TaskKey, TaskRecord
from perdure.kube.errors import ApiError

#: Ended tasks of one run whose objects are kept.
MAX_ENDED_TASKS = 1000
#: Objects deleted in one pass, at most.
AT_ONCE = 128
#: Ended tasks that go along with those that must, so that planning is rare.
BATCH = 32
#: Deletions under way at once.
CONCURRENCY = 16
#: How long an agent may take to leave after its result was committed before its pod is deleted.
LINGER = timedelta(seconds=30)
#: How long to wait after a deletion was refused.
RETRY = timedelta(seconds=5)

#: How many child Workflows that were deleted with their parents to remember (LRU).
CHILDREN = 10_000
_TERMINAL = frozenset(phase.value for phase in TERMINAL)

#: What is deleted first; failed tasks are investigated the longest.
_RANK = {Phase.SUCCEEDED: 0, Phase.SKIPPED: 0, Phase.CANCELLED: 1, Phase.FAILED: 2}

_log = structlog.get_logger(__name__)


def excess_tasks(tasks: Iterable[TaskRecord], *, excess: int) -> list[TaskRecord]:
    """The ended tasks that can best be spared: the oldest that succeeded first, failed ones last.

    `excess` of them have to go. A batch more goes along, so that planning is rare, but no failed ones.
    """
    if excess <= 0:
        return []
    ordered = sorted(tasks, key=_worth)
    return ordered[:excess] + [
        task for task in ordered[excess : excess + BATCH] if task.phase is Phase.SUCCEEDED
    ]


def due(
    policy: PodRetention, attempt: AttemptRecord | None, pod: PodFacts, number: int, now: datetime
) -> datetime | None:
    """When a pod is to be deleted; None if it stays, or leaves without our doing.

    `attempt` is the newest of the pod's task, `number` that of the pod's own.
    """
    own = attempt if attempt is not None and attempt.number == number else None
    if attempt is None or (own is not None and own.closed_at is None) or pod.deletion is not None:
        return None
    if pod.ended:
        return now if goes_when_ended(policy, attempt, number) else None
    # An agent whose report was taken leaves by itself; a superseded one has nothing left to do.
    leaves = own is not None and (own.outcome is Phase.SUCCEEDED or own.report is not None)
    return ((own.closed_at if own is not None else None) or now) + (LINGER if leaves else timedelta(0))


def goes_when_ended(policy: PodRetention, attempt: AttemptRecord, number: int) -> bool:
    """Whether a pod that has ended is deleted; for `attempt` and `number`, see `due`."""
    succeeded = attempt.number == number and attempt.outcome is Phase.SUCCEEDED
    return policy == "Never" or (policy == "OnFailure" and succeeded)


class Cleanup:
    """Deletes what is to go, a few objects at a time. One for all runs."""

    def __init__(self, *, store: Store, kube: KubePort, executors: Executors) -> None:
        self._store = store
        self._kube = kube
        self._executors = executors
        #: Ended tasks that have no object, by run, when they were last counted.
        self._bare: dict[str, int] = {}
        #: Runs that have ended, and all of whose pods were checked since.
        self._over: set[str] = set()
        #: Runs of which a deletion was refused, and when to try again.
        self._refused: dict[str, datetime] = {}
        #: Uids of child Workflows that were deleted with their parents (LRU).
        self._children_deleted: dict[str, None] = {}
        #: Pods that still ran when their run ended, and are not to outlive their own end.
        self._pending: dict[RunKey, dict[str, Deletion]] = {}
        #: Finished runs that still have running pods, and since when the run is finished.
        self._finished_since: dict[RunKey, datetime] = {}

    async def tidy(self, live: LiveRun, now: datetime) -> float | None:
        """Delete what is due of a run. Returns the seconds until there is more to do, None for nothing.

        What the API server refuses is tried again later, and stops no other run.
        """
        pods, next_due = self._pods_to_delete(live, now)
        if live.view.run.phase.terminal and pods:
            # It may be let go of before the last of them is deleted.
            self._pending.setdefault(live.key, {}).update(pods)
        again = self._refused.get(live.uid)
        if again is not None and again > now:
            return (again - now).total_seconds()
        now_due = dict(islice(pods.items(), AT_ONCE))
        tasks = self._tasks_to_delete(live)[: AT_ONCE - len(now_due)]
        deletions = [*now_due.values(), *(deletion for _, deletion in tasks)]
        deleted = await self._delete(live.key, deletions)
        if len(deleted) < len(deletions):
            self._refused[live.uid] = now + RETRY
            return RETRY.total_seconds()
        self._refused.pop(live.uid, None)
        if live.view.run.reason is Reason.DELETED and not await self._delete_children(live):
            return 0.0
        live.objects.cleanup_candidates -= now_due.keys()
        for name in now_due:
            self._pending.get(live.key, {}).pop(name, None)
        for key, task in tasks:
            self._forget_task(live, key, task)
        if len(pods) > len(now_due) or self._count_excess(live) > 0:
            return 0.0
        return None if next_due is None else max(0.0, (next_due - now).total_seconds())

    async def _delete_children(self, live: LiveRun) -> bool:
        """Delete the child Workflows of a run that was deleted. Returns whether all are deleted."""
        children = [
            Deletion(WORKFLOW, root.key.name, root.uid)
            for root in self._store.owned_by(live.uid)
            if not root.finished and not root.deleting and root.uid not in self._children_deleted
        ]
        now_due = children[:AT_ONCE]
        for child in await self._delete(live.key, now_due):
            remember(self._children_deleted, child.uid, most=CHILDREN)
        return len(now_due) == len(children)

    async def stop_orphans(self, key: RunKey, live: LiveRun | None) -> float | None:
        """Stop what runs under AgentTasks that have lost their owner, unless they are of the live run.

        An AgentTask that says that it runs is deleted; one that has ended stays. Returns the seconds until
        deletions that were refused are due again: no garbage collector comes for orphans.
        """
        children = self._store.of(key)
        own = set() if live is None else {task.name for task in live.view.tasks.values()}
        found: dict[str, list[Deletion]] = {}
        for name in sorted(children.orphans - own)[:AT_ONCE]:
            task = children.tasks.get(name)
            found[name] = [
                deletion_of_pod(pod)
                for pod in children.pods.values()
                if pod.task == name and not pod.ended and pod.deletion is None
            ]
            if task is not None and task.shown_phase not in _TERMINAL:
                found[name].append(Deletion(AGENT_TASK, name, task.uid))
        deleted = set(await self._delete(key, [deletion for each in found.values() for deletion in each]))
        stopped = {name for name, deletions in found.items() if deleted.issuperset(deletions)}
        children.orphans -= stopped
        return None if len(stopped) == len(found) else RETRY.total_seconds()

    def behind(self, live: LiveRun) -> bool:
        """True while a run that has ended has more objects than it may keep.

        The final status waits for that: once it is written, the run is not reconciled again.
        """
        return live.view.run.phase.terminal and live.uid not in self._refused and self._count_excess(live) > 0

    async def clean_finished(self, key: RunKey, now: datetime) -> float | None:
        """Delete pods that outlive their finished run, and drop the run from the store after them.

        Returns the seconds until the next check, None once there is nothing left to do. Raises ApiError.
        """
        pods = self._store.of(key).pods
        alive = {name: pod for name, pod in pods.items() if not pod.ended and pod.deletion is None}
        pending = self._pending.get(key, {})
        for name, deletion in [item for item in pending.items() if item[0] not in alive]:
            await self._kube.delete(deletion.kind, key.namespace, deletion.name, uid=deletion.uid)
            pending.pop(name, None)
        if not alive:
            self.forget(key)
            self._store.release(key)
            return None
        left = (self._finished_since.setdefault(key, now) + LINGER - now).total_seconds()
        if left > 0:
            return left
        for _, pod in sorted(alive.items()):
            deletion = deletion_of_pod(pod)
            await self._kube.delete(deletion.kind, key.namespace, deletion.name, uid=deletion.uid)
        return None

    async def clean_deleted(self, key: RunKey) -> None:
        """Delete pods of a run without an object whose deletion was refused. Raises ApiError.

        The garbage collector does not come for pods that were orphaned.
        """
        pending = self._pending.get(key, {})
        for name, deletion in list(pending.items()):
            await self._kube.delete(deletion.kind, key.namespace, deletion.name, uid=deletion.uid)
            pending.pop(name, None)
        self.forget(key)

    @property
    def pending_runs(self) -> list[RunKey]:
        """Runs that have ended, and some of whose pods are still to be deleted once the pods end."""
        return list(self._pending)

    def forget(self, key: RunKey, uid: str | None = None) -> None:
        """Nothing more will be asked about a run; if `uid` is given, only about the live one with it."""
        if uid is None:
            self._pending.pop(key, None)
            self._finished_since.pop(key, None)
        else:
            self._bare.pop(uid, None)
            self._over.discard(uid)
            self._refused.pop(uid, None)

    # --- pods

    def _pods_to_delete(self, live: LiveRun, now: datetime) -> tuple[dict[str, Deletion], datetime | None]:
        """Pods that are due, by their names in the store, and when the next one is.

        Others that stay leave `cleanup_candidates`.
        """
        objects = self._store.of(live.key)
        pods = objects.pods
        ended = live.view.run.phase.terminal
        if ended:
            # The observer takes no changes of an ended run any more, so they are left for the cleanup.
            changed, objects.changed = objects.changed, set()
            live.objects.cleanup_candidates |= changed if live.uid in self._over else pods.keys()
            self._over.add(live.uid)
        found: dict[str, Deletion] = {}
        next_due: datetime | None = None
        for name in sorted(live.objects.cleanup_candidates):
            pod, key = pods.get(name), live.objects.pod_names.get(name)
            attempt = None if key is None else live.view.attempts.get(key)
            at = None if pod is None else due(live.view.plan.pod_retention, attempt, pod, pod.attempt, now)
            if pod is None or attempt is None or at is None:
                live.objects.cleanup_candidates.discard(name)
                continue
            deletion = deletion_of_pod(pod)
            if at <= now:
                found[name] = deletion
                continue
            next_due = at if next_due is None else min(next_due, at)
            if ended and goes_when_ended(live.view.plan.pod_retention, attempt, pod.attempt):
                # It leaves by itself, but the store forgets ended pods of finished runs.
                self._pending.setdefault(live.key, {})[name] = deletion
        if ended:
            self._store.decide_pods(live.key, but=found)
        return found, next_due

    # --- tasks

    def _tasks_to_delete(self, live: LiveRun) -> list[tuple[TaskKey, Deletion]]:
        """Ended tasks beyond those that are kept, as far as nothing of them runs."""
        if not self._may_have_excess(live):
            return []
        there = self._ended_objects(live)
        self._bare[live.uid] = len(live.view.tasks) - len(live.view.live) - len(there)
        excess = len(there) - MAX_ENDED_TASKS
        if excess <= 0:
            return []
        free = {key: deletion for key, deletion in there.items() if self._is_idle(live, key, deletion)}
        chosen = excess_tasks((live.view.tasks[key] for key in free), excess=excess)
        return [(task.key, free[task.key]) for task in chosen]

    def _count_excess(self, live: LiveRun) -> int:
        if not self._may_have_excess(live):
            return 0
        there = self._ended_objects(live)
        if len(there) <= MAX_ENDED_TASKS:
            return 0
        idle = sum(self._is_idle(live, key, deletion) for key, deletion in there.items())
        return min(idle, len(there) - MAX_ENDED_TASKS)

    def _may_have_excess(self, live: LiveRun) -> bool:
        """False if there are certainly not too many: what most passes find out without counting."""
        view = live.view
        ended = len(view.tasks) - len(view.live)
        made = len(self._store.of(live.key).tasks)
        return (
            ended - self._bare.get(live.uid, 0) > MAX_ENDED_TASKS or made - len(view.live) > MAX_ENDED_TASKS
        )

    def _ended_objects(self, live: LiveRun) -> dict[TaskKey, Deletion]:
        """The objects of ended tasks: AgentTasks, and child Workflows."""
        there: dict[TaskKey, Deletion] = {}
        for key, task in live.view.tasks.items():
            executor = self._executors.of(live, key) if task.phase.terminal else None
            leftover = None if executor is None else executor.leftover(live, task)
            if leftover is not None:
                there[key] = leftover
        return there

    def _is_idle(self, live: LiveRun, key: TaskKey, deletion: Deletion) -> bool:
        """True if nothing of an ended task runs: its pods go with its object."""
        return self._executors.of_attempt(live, key).is_idle(live, key, deletion)

    def _forget_task(self, live: LiveRun, key: TaskKey, task: Deletion) -> None:
        self._store.remove(task.kind, live.key.namespace, task.name, uid=task.uid)
        self._bare[live.uid] = self._bare.get(live.uid, 0) + 1
        live.published.dirty.pop(key, None)
        live.published.written_status.pop((task.kind, task.name), None)
        live.updates.vitals.pop(key, None)

    # --- deleting

    async def _delete(self, key: RunKey, objects: Sequence[Deletion]) -> list[Deletion]:
        """Delete objects, some at once. Returns those that are gone; the rest was refused."""
        waiting = list(reversed(objects))
        deleted: list[Deletion] = []

        async def work() -> None:
            while waiting:
                deletion = waiting.pop()
                try:
                    await self._kube.delete(deletion.kind, key.namespace, deletion.name, uid=deletion.uid)
                except ApiError as error:
                    _log.warning(
                        "not deleted", run=key, kind=deletion.kind, name=deletion.name, error=str(error)
                    )
                    waiting.clear()
                else:
                    deleted.append(deletion)

        if len(objects) == 1:
            await work()
        elif objects:
            # No group: what is raised has to arrive as it is, above all that another leads by now.
            workers = (work() for _ in range(min(CONCURRENCY, len(objects))))
            for result in await asyncio.gather(*workers, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        return deleted


def _worth(task: TaskRecord) -> tuple[int, float, TaskKey]:
    ended = 0.0 if task.finished_at is None else task.finished_at.timestamp()
    return _RANK.get(task.phase, 2), ended, task.key
