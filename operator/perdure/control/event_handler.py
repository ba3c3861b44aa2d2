"""From an event of the cluster to a look at the run that it is about, as soon as the event calls for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import AGENT_TEMPLATE, POD, WORKFLOW_TEMPLATE, Store
from perdure.control.queue.workqueue import WorkQueue

#: Seconds for which news of a pod that call for no action wait for company: that it has started, or why it
#: has not. Nothing goes on because of them, and many a pod has ended by then. They wait as long as the next
#: status of their run does, which is where people see them, and within these bounds.
START_LOOK = 1.0
LONGEST_START_LOOK = 5.0

_log = structlog.get_logger(__name__)


class EventHandler:
    """Takes in what is heard of the cluster."""

    def __init__(
        self,
        *,
        store: Store,
        queue: WorkQueue,
        is_reconciling: Callable[[], bool],
        note_template: Callable[[str, str], list[RunKey]],
        shown_in: Callable[[RunKey], float],
    ) -> None:
        """See `Leader.is_reconciling`, `Reconciler.note_template` and `StatusWriter.shown_in`."""
        self._store = store
        self._queue = queue
        self._is_reconciling = is_reconciling
        self._note_template = note_template
        self._shown_in = shown_in

    def __call__(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        """An object was made, or has changed, or was deleted. Never waits, and never raises.

        An exception would end the watch, and with it the process: for the objects of all namespaces.
        """
        try:
            self._handle(kind, obj, deleted)
        except Exception:
            _log.exception("event passed over", kind=kind, deleted=deleted)

    def _handle(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        metadata = obj["metadata"]
        if deleted:
            key = self._store.remove(kind, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        else:
            key = self._store.apply(kind, obj)
        if not self._is_reconciling():
            return
        for stirred in self._store.pop_dirty_owners():
            self._queue.add(stirred)
        if kind in (AGENT_TEMPLATE, WORKFLOW_TEMPLATE):
            for waiting in self._note_template(metadata["namespace"], metadata["name"]):
                self._queue.add(waiting)
        elif key is not None and kind == POD and not deleted and self._can_wait(metadata):
            self._queue.add_after(key, min(LONGEST_START_LOOK, max(START_LOOK, self._shown_in(key))))
        elif key is not None:
            self._queue.add(key)

    def _can_wait(self, metadata: Mapping[str, Any]) -> bool:
        """Whether nothing is to be done about what a pod is like now."""
        pod = self._store.pod(metadata["namespace"], metadata["name"])
        # The gateway lets a Job's pod in only after it was noted; any other was noted by who made it.
        return pod is not None and not (pod.agent_ended or pod.deletion is not None or pod.of_job)
