"""Which statuses are to be written about a run: its own, and those of its tasks that changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from perdure.control.conditions import conditions
from perdure.control.live import LiveRun
from perdure.control.projection import refused_status, task_status, workflow_status
from perdure.control.projector import StatusWrite
from perdure.control.store import Root, Store
from perdure.domain.facts import PodFacts
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, NO_INDEX, WORKFLOW, TaskKey

STANDALONE = TaskKey("", NO_INDEX)
_LEDGER_AWAY = "the ledger (Postgres) cannot be reached; nothing new starts, running agents go on"


def ignore() -> None:
    """What to do about a write of which nobody needs to know."""


def writes_of_live(live: LiveRun, root: Root, store: Store, now: datetime) -> list[StatusWrite]:
    """The statuses of a run in memory, and of its tasks that changed."""
    writes = []
    if live.key.kind == WORKFLOW:
        # Marks are taken off before the writes, not after: what changes meanwhile is marked anew.
        unshown, live.unshown = live.unshown, set()
        for task_key in sorted(unshown):
            write = _task_write(live, task_key, store, now)
            if write is not None:
                writes.append(write)
    else:
        live.unshown.discard(STANDALONE)
    before = live.shown.get((root.key.kind, root.key.name), {})
    after = _root_status(live, root, store, before, now)
    shown = partial(live.shown.__setitem__, (root.key.kind, root.key.name), after)
    writes.append(_root_write(root, before, after, shown))
    return writes


def write_of_unavailable(root: Root, now: datetime) -> StatusWrite:
    """The status of a run of which nothing is known while the ledger is away."""
    before = root.status or {}
    status = refused_status(
        root.generation, Reason.LEDGER_UNAVAILABLE, _LEDGER_AWAY, before, now, final=False
    )
    after = {**before, **status, "phase": before.get("phase", Phase.PENDING.value)}
    return _root_write(root, before, after, ignore)


def write_of_waiting(root: Root, message: str, now: datetime) -> StatusWrite:
    """The status of a run that waits for a template."""
    before = root.status or {}
    reason = Reason.TEMPLATE_NOT_FOUND
    after = refused_status(root.generation, reason, message, before, now, final=False)
    return _root_write(root, before, after, ignore)


def _root_status(
    live: LiveRun, root: Root, store: Store, before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    run = live.view.run
    pods: Mapping[str, PodFacts] = store.of(root.key).pods
    if not run.spec and run.phase.terminal:
        reason = run.reason or Reason.INVALID_CONFIG
        return refused_status(root.generation, reason, run.message, before, now, final=True)
    if root.key.kind == WORKFLOW:
        children = {child.key.name: child.status or {} for child in store.owned_by(root.uid)}
        return workflow_status(live, pods, before, now, children=children)
    if STANDALONE in live.view.tasks:
        attempt = live.view.attempts.get(STANDALONE)
        pod = None if attempt is None else pods.get(attempt.pod_name)
        return task_status(live, STANDALONE, pod, before, now)
    return _taskless_status(live, before, now)


def _taskless_status(live: LiveRun, before: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The status of an AgentTask that was paused or cancelled before it came to start."""
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


def _task_write(live: LiveRun, key: TaskKey, store: Store, now: datetime) -> StatusWrite | None:
    task = live.view.tasks.get(key)
    children = store.of(live.key)
    if task is None or task.name not in children.tasks:
        return None  # it has no object: it failed before it could start, or is no agent's
    before = live.shown.get((AGENT_TASK, task.name), {})
    attempt = live.view.attempts.get(key)
    pod = None if attempt is None else children.pods.get(attempt.pod_name)
    after = task_status(live, key, pod, before, now)
    return StatusWrite(
        kind=AGENT_TASK,
        name=task.name,
        uid=children.tasks[task.name].uid,
        before=before,
        after=after,
        written=partial(live.shown.__setitem__, (AGENT_TASK, task.name), after),
        missed=partial(live.unshown.add, key),
    )
