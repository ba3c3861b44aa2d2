"""The handler of watch events: updates the store and enqueues the run that an event is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import AGENT_TEMPLATE, POD, WORKFLOW_TEMPLATE, Store
from perdure.control.passed_over import PassedOver
from perdure.control.queue.workqueue import WorkQueue

#: Seconds for which pod events without a consequence are debounced: the pod has started, or says why not. No
#: decision depends on them, and many a pod ends within that time. They wait until the next write of their
#: run's status, where people read them, within these bounds.
START_DEBOUNCE = 1.0
LONGEST_START_DEBOUNCE = 5.0


class EventHandler:
    """Called for every event of every watch."""

    def __init__(
        self,
        *,
        store: Store,
        queue: WorkQueue,
        is_reconciling: Callable[[], bool],
        note_template: Callable[[str, str], list[RunKey]],
        shown_in: Callable[[RunKey], float],
        passed_over: PassedOver | None = None,
    ) -> None:
        """See `Leader.is_reconciling`, `LiveRuns.note_template` and `StatusWriter.shown_in`."""
        self._store = store
        self._queue = queue
        self._is_reconciling = is_reconciling
        self._note_template = note_template
        self._shown_in = shown_in
        self._passed_over = passed_over or PassedOver()

    def __call__(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        """An object was created, changed or deleted. Never waits, and never raises.

        An exception would end the watch, and with it the process, for the objects of all namespaces.
        """
        with self._passed_over.guard("watch", kind):
            self._handle(kind, obj, deleted)

    def _handle(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        metadata = obj["metadata"]
        if deleted:
            version = int(metadata["resourceVersion"])
            key = self._store.remove(
                kind, metadata["namespace"], metadata["name"], uid=metadata["uid"], version=version
            )
        else:
            key = self._store.apply(kind, obj)
        if not self._is_reconciling():
            return
        for owner in self._store.pop_dirty_owners():
            self._queue.add(owner)
        if kind in (AGENT_TEMPLATE, WORKFLOW_TEMPLATE):
            for waiting in self._note_template(metadata["namespace"], metadata["name"]):
                self._queue.add(waiting)
        elif key is not None and kind == POD and not deleted and self._can_wait(metadata):
            self._queue.add_after(key, min(LONGEST_START_DEBOUNCE, max(START_DEBOUNCE, self._shown_in(key))))
        elif key is not None:
            if kind == key.kind and metadata["name"] == key.name:
                self._queue.release(key)  # what people applied has changed
            self._queue.add(key)

    def _can_wait(self, metadata: Mapping[str, Any]) -> bool:
        """Whether the present state of a pod calls for no decision."""
        pod = self._store.pod(metadata["namespace"], metadata["name"])
        # The gateway admits a Job's pod only after a pass has recorded the pod's uid. The uid of any other
        # pod is recorded when the operator creates the pod.
        return pod is not None and not (pod.agent_ended or pod.deletion is not None or pod.of_job)
