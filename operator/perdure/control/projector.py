"""Writing statuses: few patches, each computed at the last moment from the newest state.

What is waiting to be written is a name, never a payload: changes that come while it waits are part of the
patch, and an old status can never overwrite a newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

import structlog

from perdure.control.keys import RunKey
from perdure.control.ports import KubePort
from perdure.control.projection import status_patch
from perdure.control.workqueue import WorkQueue
from perdure.kube.errors import ApiError

#: Patches under way at once.
WORKERS = 8

_log = structlog.get_logger(__name__)


class StatusSource(Protocol):
    """Where statuses come from: the reconciler."""

    def statuses(self, key: RunKey, now: datetime) -> list[StatusWrite]:
        """What is to be written about a run now."""
        ...

    def written(self, key: RunKey) -> None:
        """All that `statuses` gave has been written."""
        ...


class StatusWrite:
    """One object's status as it was and as it is to be.

    `written` is called once the API server has it, `missed` if it has to be computed and written again.
    """

    __slots__ = ("after", "before", "kind", "missed", "name", "uid", "written")

    def __init__(
        self,
        *,
        kind: str,
        name: str,
        uid: str,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
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


class Projector:
    """Gathers changes to a run's statuses and writes them at most once per interval."""

    def __init__(
        self, *, kube: KubePort, source: StatusSource, interval: float, clock: Callable[[], datetime]
    ) -> None:
        self._kube = kube
        self._source = source
        self._interval = interval
        self._clock = clock
        self._queue = WorkQueue()
        self._last: dict[RunKey, float] = {}

    def mark(self, key: RunKey, *, urgent: bool = False) -> None:
        """A run's statuses have changed. Urgent ones (an end, a refusal) are written at once."""
        now = asyncio.get_running_loop().time()
        due = self._last.get(key, now - self._interval) + self._interval
        if urgent or due <= now:
            self._queue.add(key)
        else:
            self._queue.add_after(key, due - now)

    def forget(self, key: RunKey) -> None:
        """Nothing more will be written about a run."""
        self._last.pop(key, None)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                self._last[key] = asyncio.get_running_loop().time()
                if await self._write(key):
                    self._queue.succeeded(key)
                    self._source.written(key)
                else:
                    self._queue.add_failed(key)
            finally:
                self._queue.done(key)

    async def _write(self, key: RunKey) -> bool:
        """Write what there is to be written about a run. False if some of it has to be tried again."""
        writes = self._source.statuses(key, self._clock())
        for position, write in enumerate(writes):
            try:
                await self._patch(key.namespace, write)
            except ApiError as error:
                if not error.not_found:
                    _log.warning(
                        "status not written",
                        kind=write.kind,
                        namespace=key.namespace,
                        name=write.name,
                        error=str(error),
                    )
                    for unwritten in writes[position:]:
                        unwritten.missed()
                    return False
                # It is no more: there is nobody left to tell.
            write.written()
        return True

    async def _patch(self, namespace: str, write: StatusWrite) -> None:
        patch = status_patch(write.uid, write.before, write.after)
        if not patch:
            return
        try:
            await self._kube.patch_status(write.kind, namespace, write.name, patch)
        except ApiError as error:
            if error.status != 422:
                raise
            # The status there is not the one we took it for, or the object is another: write it whole.
            there = await self._kube.get(write.kind, namespace, write.name)
            if there["metadata"]["uid"] == write.uid:
                whole = status_patch(write.uid, {}, write.after)
                await self._kube.patch_status(write.kind, namespace, write.name, whole)
