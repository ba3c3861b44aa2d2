"""The source of the statuses to be written: which statuses of a run the status writer writes next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import orjson

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.runs.payloads import PayloadReader
from perdure.control.runs.quarantine import MESSAGE, Quarantine
from perdure.control.status.pending import (
    more_is_due_in,
    take_foreign,
    write_of_failing,
    write_of_unavailable,
    write_of_waiting,
    writes_of_live,
)
from perdure.control.status.status_writer import StatusWrite
from perdure.domain.payloads import Payload
from perdure.domain.phases import Reason


class RunStatusSource:
    """The `StatusSource` of the control loop. Computes statuses from the live runs and the cache."""

    def __init__(
        self,
        *,
        store: Store,
        runs: LiveRuns,
        cleanup: Cleanup,
        quarantine: Quarantine,
        payloads: PayloadReader,
    ) -> None:
        self._quarantine = quarantine
        self._payloads = payloads
        self._store = store
        self._runs = runs
        self._cleanup = cleanup

    def statuses(self, key: RunKey, now: datetime, *, patience: timedelta) -> list[StatusWrite]:
        """The statuses to be written about a run: its own status, and those of its tasks that changed."""
        root = self._store.roots.get(key)
        if root is None or root.finished:
            return []
        live = self._runs.by_uid.get(root.uid)
        if self._quarantine.is_set_aside(key):
            return [write_of_failing(root, live, Reason.QUARANTINED, MESSAGE, now)]
        over = live is not None and live.view.run.phase.terminal
        if self._runs.is_unavailable(key) and not over:
            return [write_of_unavailable(root, live, now)]
        if (failing := self._runs.failing_message(key)) is not None:
            return [write_of_failing(root, live, Reason.RECONCILE_ERROR, failing, now)]
        if live is not None:
            take_foreign(live, self._store, now)
        if live is not None and over and (not live.published.backfilled or self._cleanup.behind(live)):
            return []  # once the final status is written the run is not reconciled again
        if live is not None:
            return writes_of_live(live, root, self._store, now, patience=patience)
        message = self._runs.waiting_message(key)
        return [] if message is None else [write_of_waiting(root, message, now)]

    async def complete(self, key: RunKey, writes: Sequence[StatusWrite]) -> None:
        """Read outputs that are small enough for a status from the ledger. Raises LedgerError."""
        live = self._runs.by_key.get(key)
        if live is None:
            return
        tasks = (
            {task.name: task for task in live.view.tasks.values()} if _shows_stored(writes, "output") else {}
        )
        for write in writes:
            if isinstance(write.after.get("output"), Payload):
                body = await self._payloads.task_output(live.uid, tasks[write.name])
                write.after["output"] = orjson.loads(body)
            outputs = write.after.get("outputs")
            if isinstance(outputs, Payload):
                write.after["outputs"] = orjson.loads(await self._payloads.run_outputs(live.uid, outputs))

    def written(self, key: RunKey, now: datetime, *, patience: timedelta) -> float | None:
        """The statuses are written. A run whose final status is among them is dropped."""
        live = self._runs.by_key.get(key)
        if live is not None and live.view.run.phase.terminal and not live.published.dirty:
            root = self._store.roots.get(key)
            written = live.published.written_status.get((key.kind, key.name), {})
            if root is None or written.get("phase") == live.view.run.phase.value:
                self._runs.drop(live)
        if live is None or self._cleanup.behind(live):
            return None
        return more_is_due_in(live, now, patience=patience)


def _shows_stored(writes: Sequence[StatusWrite], field: str) -> bool:
    return any(isinstance(write.after.get(field), Payload) for write in writes)
