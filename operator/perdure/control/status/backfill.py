"""AgentTasks whose final status was never written, because the cache received them late or not at all.

A leader may have begun with a stale list, and the run may end before the next relist. After its last status a
run is not reconciled again, so the API server itself is asked before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from perdure.control.cluster_cache.run_objects import TaskObject
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort
from perdure.domain.names import LABEL_WORKFLOW
from perdure.domain.records import AGENT_TASK, WORKFLOW, TaskKey, TaskRecord


async def find_unreported(live: LiveRun, *, store: Store, kube: KubePort, now: datetime) -> None:
    """Mark the AgentTasks of an ended run whose status lacks the end of their task. Raises ApiError.

    The API server is asked only if an object is missing that was created; cleanup may have deleted some.
    """
    if live.published.backfilled:
        return
    if live.key.kind == WORKFLOW:
        unreported = [
            task for key, task in live.view.tasks.items() if key not in live.published.final_status_written
        ]
        objects = store.of(live.key).tasks
        if any(_was_created(live, task) and task.name not in objects for task in unreported):
            found, _ = await kube.list(
                AGENT_TASK, namespace=live.key.namespace, label_selector=f"{LABEL_WORKFLOW}={live.key.name}"
            )
            for obj in found:
                store.apply(AGENT_TASK, obj)
            objects = store.of(live.key).tasks
        live.published.mark_dirty(status_differs(unreported, objects), now)
    live.published.backfilled = True


def status_differs(tasks: Iterable[TaskRecord], objects: Mapping[str, TaskObject]) -> Iterator[TaskKey]:
    """The tasks whose object exists and has a status with another phase."""
    for task in tasks:
        if task.name in objects and objects[task.name].shown_phase != task.phase.value:
            yield task.key


def _was_created(live: LiveRun, task: TaskRecord) -> bool:
    return task.key in live.view.attempts and live.view.plan.steps[task.key.step].kind.counts.objects
