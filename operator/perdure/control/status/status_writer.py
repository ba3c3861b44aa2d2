"""Writing statuses: few patches, each computed at the last moment from the newest state.

The queue holds keys, never payloads: changes that come while a key waits are part of the patch, and an old
status can never overwrite a newer one. A run's own status comes before those of its tasks, because people
read that one first. Only the last status of a run comes after those of its tasks: after that one the run is
not reconciled again, and a task's status would never be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.passed_over import PassedOver
from perdure.control.ports import KubePort
from perdure.control.queue.workqueue import WorkQueue
from perdure.domain.phases import TERMINAL
from perdure.kube.errors import ApiError

#: Runs whose statuses are written at once.
WORKERS = 8
#: Patches under way at once: of one run, and of all runs.
PATCHES_OF_RUN = 8
PATCHES = 16
#: Seconds of writes of tasks after which the run's own status is written again first.
SLICE = 1.0
#: Seconds by which a write is delayed at most, so that further changes join it.
LONGEST_INTERVAL = 10.0
#: The weight of the newest patch in the moving average of a patch's duration.
_NEWEST = 1 / 16

_TERMINAL = frozenset(phase.value for phase in TERMINAL)

_log = structlog.get_logger(__name__)


class StatusSource(Protocol):
    """Where statuses come from (see `control.runs.status_source`)."""

    def statuses(self, key: RunKey, now: datetime, *, patience: timedelta) -> Sequence[StatusWrite]:
        """The statuses to write of a run now: a bounded number of its tasks' statuses, then the run's own.

        A change other than an end may be left out until the change is as old as `patience`.
        """
        ...

    async def complete(self, key: RunKey, writes: Sequence[StatusWrite]) -> None:
        """Read what the statuses show and memory does not have. Raises LedgerError."""
        ...

    def written(self, key: RunKey, now: datetime, *, patience: timedelta) -> float | None:
        """Note that all writes of `statuses` are done. Returns the seconds until the next is due, or None."""
        ...


class WriteJournal(Protocol):
    """The record of own writes of statuses (see `control.cluster_cache.store.Store`)."""

    def begin_write(self, kind: str, namespace: str, name: str) -> None:
        """A status is about to be written."""
        ...

    def end_write(self, kind: str, namespace: str, name: str, version: int | None) -> None:
        """A status was written as this resourceVersion, or perhaps not, if None."""
        ...


class StatusWrite:
    """One object's previous status and its next.

    `written` is called once the API server has the next status, `missed` if the status has to be computed
    and written again.
    """

    __slots__ = ("after", "before", "kind", "missed", "name", "uid", "written")

    def __init__(
        self,
        *,
        kind: str,
        name: str,
        uid: str,
        before: Mapping[str, Any],
        after: dict[str, Any],
        written: Callable[[], None],
        missed: Callable[[], None],
    ) -> None:
        self.kind = kind
        self.name = name
        self.uid = uid
        self.before = before
        self.after = after
        self.written = written
        self.missed = missed


class StatusWriter:
    """Gathers changes to a run's statuses and writes them at most once per interval.

    Patches of statuses are the largest load of an API server with many runs, and must not slow down steps.
    So about one run's patches are under way at a time: the more runs wait and the slower the API server
    answers, the longer the interval, up to `LONGEST_INTERVAL`. By Little's law the number of patches under
    way is their rate times the duration of one.
    """

    def __init__(
        self,
        *,
        kube: KubePort,
        interval: float,
        clock: Callable[[], datetime],
        passed_over: PassedOver | None = None,
        journal: WriteJournal | None = None,
    ) -> None:
        """`journal` records each write, to distinguish the statuses that others write."""
        self._journal = journal
        self._passed_over = passed_over or PassedOver()
        self._kube = kube
        self._interval = interval
        self._clock = clock
        self._queue = WorkQueue()
        self._last: dict[RunKey, float] = {}
        self._patches = asyncio.Semaphore(PATCHES)
        #: Moving average of a patch's duration, in seconds.
        self._duration = 0.0

    def mark(self, key: RunKey, *, urgent: bool = False, after: float = 0.0) -> None:
        """Queue a run whose statuses have changed; at once if `urgent` (another phase, a refusal).

        `after`: seconds to wait at least, where many runs change for one cause.
        """
        wait = max(self.shown_in(key), after)
        if urgent or wait <= 0:
            self._queue.add(key)
        else:
            self._queue.add_after(key, wait)

    def shown_in(self, key: RunKey) -> float:
        """Seconds until a run's next write is due; 0 or less if the write is due now."""
        now = asyncio.get_running_loop().time()
        pause = self._pause()
        return self._last.get(key, now - pause) + pause - now

    def forget(self, key: RunKey) -> None:
        """Drop the time of a run's last write, since no further write follows."""
        self._last.pop(key, None)

    def close(self) -> None:
        """Drop the queue, and the times of the last writes."""
        self._queue.close()
        self._last.clear()

    async def run(self, source: StatusSource) -> None:
        """Write the statuses that `source` has of the marked runs, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work(source))

    def _pause(self) -> float:
        """Seconds between two writes of a run, from the present load."""
        return max(self._interval, min(LONGEST_INTERVAL, self._queue.pending * self._duration))

    async def _work(self, source: StatusSource) -> None:
        while True:
            key = await self._queue.get()
            try:
                failed = True
                with self._passed_over.guard("status", key):
                    failed = not await self._write_run(source, key)
                if failed:
                    self._queue.add_failed(key)
            finally:
                self._queue.done(key)

    async def _write_run(self, source: StatusSource, key: RunKey) -> bool:
        """Write the statuses of one run. Returns False to try again later, with backoff."""
        self._last[key] = asyncio.get_running_loop().time()
        patience = timedelta(seconds=self._pause())
        writes = list(source.statuses(key, self._clock(), patience=patience))
        try:
            await source.complete(key, writes)
        except BaseException:
            for write in writes:
                write.missed()
            raise
        done = await self._write(key, writes)
        if done is None:
            return False
        self._queue.succeeded(key)
        due = source.written(key, self._clock(), patience=patience) if done else 0.0
        if due:
            self._queue.add_after(key, max(due, self.shown_in(key)))
        # A batch without a task's status made no progress, and a requeue would spin: the source marks
        # the run when more statuses are ready.
        elif due == 0 and any(write.kind != key.kind or write.name != key.name for write in writes):
            self._queue.add(key)
        return True

    async def _write(self, key: RunKey, writes: Sequence[StatusWrite]) -> bool | None:
        """Write the statuses of a run.

        Returns True if all are written, False if the time was over before, None if one was refused.
        """
        tasks = list(writes)
        own = tasks.pop() if tasks and (tasks[-1].kind, tasks[-1].name) == (key.kind, key.name) else None
        last = own is not None and own.after.get("phase") in _TERMINAL
        if own is not None and not last and not await self._try(key, own):
            for write in tasks:
                write.missed()
            return None
        done = await self._write_tasks(key, tasks, within=None if last else SLICE)
        if own is None or not last:
            return done
        if not done:
            own.missed()
            return None
        return True if await self._try(key, own) else None

    async def _write_tasks(
        self, key: RunKey, writes: Sequence[StatusWrite], *, within: float | None
    ) -> bool | None:
        """As `_write`, for tasks only. Each status that was not written is `missed`."""
        loop = asyncio.get_running_loop()
        waiting = list(reversed(writes))
        until = None if within is None else loop.time() + within
        refused = False

        async def work() -> None:
            nonlocal refused
            while waiting and not refused and (until is None or loop.time() < until):
                if not await self._try(key, waiting.pop()):
                    refused = True

        if len(writes) == 1:
            await work()
        elif writes:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(PATCHES_OF_RUN, len(writes))):
                    group.create_task(work())
        for write in waiting:
            write.missed()
        return None if refused else not waiting

    async def _try(self, key: RunKey, write: StatusWrite) -> bool:
        """Write one status. Returns False if the API server refused the status, which is then `missed`."""
        loop = asyncio.get_running_loop()
        try:
            async with self._patches:
                begun = loop.time()
                try:
                    await self._patch(key.namespace, write)
                finally:
                    self._duration += (loop.time() - begun - self._duration) * _NEWEST
        except ApiError as error:
            if not error.not_found:
                _log.warning(
                    "status not written",
                    kind=write.kind,
                    namespace=key.namespace,
                    name=write.name,
                    error=str(error),
                )
                write.missed()
                return False
            # The object was deleted: there is no status left to write.
        write.written()
        return True

    async def _patch(self, namespace: str, write: StatusWrite) -> None:
        patch = status_patch(write.uid, write.before, write.after)
        if not patch:
            return
        version = None
        if self._journal is not None:
            self._journal.begin_write(write.kind, namespace, write.name)
        try:
            version = await self._send(namespace, write, patch)
        finally:
            if self._journal is not None:
                self._journal.end_write(write.kind, namespace, write.name, version)

    async def _send(self, namespace: str, write: StatusWrite, patch: list[dict[str, Any]]) -> int | None:
        """Send a patch. Returns the resourceVersion that it led to; None if the object is another one."""
        try:
            there = await self._kube.patch_status(write.kind, namespace, write.name, patch, brief=True)
            return int(there["metadata"]["resourceVersion"])
        except ApiError as error:
            if error.status != 422:
                raise
            # The status in the cluster is not `before`, or the object is another of the same name. Only in
            # the first case the whole status is written.
            current = await self._kube.get(write.kind, namespace, write.name)
            if current["metadata"]["uid"] == write.uid:
                whole = status_patch(write.uid, {}, write.after)
                there = await self._kube.patch_status(write.kind, namespace, write.name, whole, brief=True)
                return int(there["metadata"]["resourceVersion"])
            return None


def status_patch(uid: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON patch (RFC 6902) that makes status `after` of `before`; [] if they are equal.

    A merge patch could not write a null that is part of an output. The test of the uid makes the API server
    refuse the patch for an object of the same name that was created in the meantime.
    """
    if not before:
        changes = [{"op": "add", "path": "/status", "value": dict(after)}] if after else []
    else:
        changes = [{"op": "remove", "path": f"/status/{name}"} for name in before if name not in after]
        changes += [
            {"op": "add", "path": f"/status/{name}", "value": value}
            for name, value in after.items()
            if name not in before or before[name] != value
        ]
    return [{"op": "test", "path": "/metadata/uid", "value": uid}, *changes] if changes else []
