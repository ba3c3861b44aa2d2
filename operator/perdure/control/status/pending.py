"""The statuses to write of a run: its own, and those of its tasks with changes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import Root, TaskObject
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.status.compute import refused_status, task_status, workflow_status
from perdure.control.status.conditions import conditions
from perdure.control.status.status_writer import StatusWrite
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, NO_INDEX, WORKFLOW, TaskKey, TaskRecord

#: Statuses of tasks that are computed at once.
MAX_TASKS = 256
STANDALONE = TaskKey("", NO_INDEX)
_LEDGER_AWAY = "the ledger (Postgres) cannot be reached; nothing new starts, running agents go on"


def ignore() -> None:
    """The callback of a write that changes nothing here."""


def writes_of_live(
    live: LiveRun, root: Root, store: Store, now: datetime, *, patience: timedelta
) -> list[StatusWrite]:
    """The statuses of a run in memory, and of its tasks that changed.

    The end of a task is written at once, any other change when it is as old as `patience`: a phase that a
    task only passes through is not worth a patch.
    """
    writes: list[StatusWrite] = []
    if live.key.kind == WORKFLOW:
        # Marks are removed before the writes, not after: a change during a write marks the task again, and
        # would be lost if its mark were removed after the write.
        while len(writes) < MAX_TASKS and (turn := _take_dirty(live, now - patience)):
            found = (_task_write(live, task_key, store, now, since) for task_key, since in turn)
            writes += [write for write in found if write is not None]
        if live.published.dirty and live.view.run.phase.terminal:
            return writes  # the run's last status comes after those of all its tasks
    else:
        live.published.dirty.pop(STANDALONE, None)
    before = live.published.written_status.get((root.key.kind, root.key.name), {})
    after = root_status(live, root, store, before, now)
    written = partial(live.published.written_status.__setitem__, (root.key.kind, root.key.name), after)
    writes.append(_root_write(root, before, after, written))
    return writes


def more_is_due_in(live: LiveRun, now: datetime, *, patience: timedelta) -> float | None:
    """Seconds until a status of a task is due; None if none has changes."""
    if not live.published.dirty:
        return None
    if any(_is_due(live, key, now - patience) for key in live.published.dirty):
        return 0.0
    return max(0.0, (min(live.published.dirty.values()) + patience - now).total_seconds())


def _is_due(live: LiveRun, key: TaskKey, before: datetime) -> bool:
    """True if a dirty task is due: the task has ended, or its change is as old as `before`."""
    task = live.view.tasks.get(key)
    return live.published.dirty[key] <= before or task is None or task.phase.terminal


def _take_dirty(live: LiveRun, before: datetime) -> list[tuple[TaskKey, datetime]]:
    """The next due tasks, at most `MAX_TASKS`, by key, beginning after the last turn."""
    due = {key for key in live.published.dirty if _is_due(live, key, before)}
    last = live.published.last_turn
    later = due if last is None else {key for key in due if key > last}
    turn = heapq.nsmallest(MAX_TASKS, later)
    if len(turn) < MAX_TASKS:
        turn += heapq.nsmallest(MAX_TASKS - len(turn), due - later)
    live.published.last_turn = turn[-1] if turn else None
    return [(key, live.published.dirty.pop(key)) for key in turn]


def write_of_unavailable(root: Root, live: LiveRun | None, now: datetime) -> StatusWrite:
    """The status of a run that waits for the ledger: the last one, with the cause."""
    return write_of_failing(root, live, Reason.LEDGER_UNAVAILABLE, _LEDGER_AWAY, now)


def write_of_failing(
    root: Root, live: LiveRun | None, reason: Reason, message: str, now: datetime
) -> StatusWrite:
    """The status of a run whose passes fail, or that is set aside: the last one, with the cause."""
    shown = {} if live is None else live.published.written_status
    # A watch may lag behind our own last write.
    before = shown.get((root.key.kind, root.key.name)) or root.status or {}
    stalled = reason is Reason.QUARANTINED
    status = refused_status(root.generation, reason, message, before, now, final=False, stalled=stalled)
    after = {**before, **status, "phase": before.get("phase", Phase.PENDING.value)}
    written = ignore
    if live is not None:
        # The status after the next success is a patch of this one.
        written = partial(live.published.written_status.__setitem__, (root.key.kind, root.key.name), after)
    return _root_write(root, before, after, written)


def write_of_waiting(root: Root, message: str, now: datetime) -> StatusWrite:
    """The status of a run that waits for a template."""
    before = root.status or {}
    reason = Reason.TEMPLATE_NOT_FOUND
    after = refused_status(root.generation, reason, message, before, now, final=False)
    return _root_write(root, before, after, ignore)


def root_status(
    live: LiveRun, root: Root, store: Store, before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    run = live.view.run
    pods: Mapping[str, PodFacts] = store.of(root.key).pods
    if not run.spec and run.phase.terminal:
        reason = run.reason or Reason.INVALID_CONFIG
        return refused_status(root.generation, reason, run.message, before, now, final=True)
    if root.key.kind == WORKFLOW:
        return workflow_status(
            live, pods, before, now, children=_ChildStatuses(root, store), wants=live.agenda.unmet_slots
        )
    if STANDALONE in live.view.tasks:
        attempt = live.view.attempts.get(STANDALONE)
        pod = None if attempt is None else pods.get(attempt.pod_name)
        return task_status(live, STANDALONE, pod, before, now)
    return _taskless_status(live, before, now)


class _ChildStatuses(Mapping[str, Mapping[str, Any]]):
    """The statuses of a run's child Workflows by name, found one at a time: there may be thousands."""

    def __init__(self, root: Root, store: Store) -> None:
        self._root = root
        self._store = store

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        child = self._store.roots[RunKey(WORKFLOW, self._root.key.namespace, name)]
        if child.owner_uid != self._root.uid:
            raise KeyError(name)
        return child.status or {}

    def __iter__(self) -> Iterator[str]:
        return (child.key.name for child in self._store.owned_by(self._root.uid))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _taskless_status(live: LiveRun, before: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The status of an AgentTask that was paused or cancelled before it started."""
    run = live.view.run
    status: dict[str, Any] = {
        "observedGeneration": live.generation,
        "phase": run.phase.value,
        "conditions": conditions(
            run.phase, run.reason, run.message, live.generation, waiting=None, before=before, now=now
        ),
    }
    if run.reason is not None:
        status["reason"] = run.reason.value
    if run.message:
        status["message"] = run.message
    return status


def _root_write(
    root: Root, before: Mapping[str, Any], after: dict[str, Any], written: Callable[[], None]
) -> StatusWrite:
    return StatusWrite(
        kind=root.key.kind,
        name=root.key.name,
        uid=root.uid,
        before=before,
        after=after,
        written=written,
        missed=ignore,
    )


def _task_write(
    live: LiveRun, key: TaskKey, store: Store, now: datetime, since: datetime
) -> StatusWrite | None:
    task = live.view.tasks.get(key)
    children = store.of(live.key)
    if task is None or task.name not in children.tasks:
        return None  # the task has no object: it failed before its start, or its kind has none
    before = live.published.written_status.get((AGENT_TASK, task.name), {})
    # After a restart only the conditions of the status are known, and the whole status is written.
    known = before or _with_conditions(children.tasks[task.name])
    attempt = live.view.attempts.get(key)
    pod = None if attempt is None else children.pods.get(attempt.pod_name)
    after = task_status(live, key, pod, known, now)
    return StatusWrite(
        kind=AGENT_TASK,
        name=task.name,
        uid=children.tasks[task.name].uid,
        before=before,
        after=after,
        written=partial(_note_written, live, task, after),
        missed=partial(live.published.mark_dirty, [key], since),
    )


def _with_conditions(task: TaskObject) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": type, "status": status, "lastTransitionTime": time}
            for type, status, time in task.conditions
        ]
    }


def take_foreign(live: LiveRun, store: Store, now: datetime) -> None:
    """Have the statuses that others wrote written again: their next patches are relative to what is there."""
    foreign = store.of(live.key).foreign
    if not foreign:
        return
    by_name = {task.name: key for key, task in live.view.tasks.items()}
    for (kind, name), status in foreign.items():
        key = by_name.get(name) if kind == AGENT_TASK and live.key.kind == WORKFLOW else None
        if key is None and (kind, name) != (live.key.kind, live.key.name):
            continue
        live.published.written_status[kind, name] = dict(status)
        if key is not None:
            live.published.final_status_written.discard(key)
            live.published.mark_dirty([key], now)
    foreign.clear()


def _note_written(live: LiveRun, task: TaskRecord, status: dict[str, Any]) -> None:
    place = (AGENT_TASK, task.name)
    if task.phase.terminal:
        live.published.written_status.pop(
            place, None
        )  # no further status follows, and a run may have thousands of tasks
        live.published.final_status_written.add(task.key)
    else:
        live.published.written_status[place] = status
