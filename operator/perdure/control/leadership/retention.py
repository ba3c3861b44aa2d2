"""The end of retention: ended runs and their history are deleted, each by itself.

A run whose object may not be deleted (a webhook refuses, the namespace is forbidden) is tried again later,
with backoff. All other runs are deleted meanwhile, and the expiry of cached results goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from perdure.control.passed_over import PassedOver
from perdure.control.ports import KubePort, LedgerPort

#: Seconds between queries for runs whose retention has ended.
INTERVAL = 30.0
#: Ended runs, and cached results, that one query returns or deletes.
BATCH = 100
CACHE_BATCH = 1000
#: Deletions under way at once: an API server that answers late to one of them delays no others.
CONCURRENCY = 8
#: Seconds until a run whose deletion was refused is tried again: from, doubled up to.
REFUSED_RETRY = (60.0, 3600.0)
#: Refused runs beyond which the query grows no further: those after them wait until some can be deleted.
MAX_REFUSED = 10_000


class Retention:
    """Deletes ended runs whose retention has ended, and expired cached results."""

    def __init__(
        self,
        *,
        kube: KubePort,
        ledger: LedgerPort,
        clock: Callable[[], datetime],
        passed_over: PassedOver,
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._clock = clock
        self._passed_over = passed_over
        #: Runs whose deletion was refused, by uid: how often, and when to try again (time of the loop).
        self._refused: dict[str, tuple[int, float]] = {}

    async def run(self, epoch: Callable[[], int]) -> None:
        """Delete what is due, until cancelled. Raises Deposed."""
        while True:
            more = False
            with self._passed_over.guard("retention", "ended runs"):
                more = await self._delete_some(epoch())
            # The history of a run and a cached result have nothing in common but the ledger.
            with self._passed_over.guard("retention", "cached results"):
                await self._ledger.forget_cache(self._clock(), limit=CACHE_BATCH, epoch=epoch())
            if not more:
                await asyncio.sleep(INTERVAL)

    async def _delete_some(self, epoch: int) -> bool:
        """One batch. Returns whether more is due. Raises LedgerError."""
        # Refused runs are the oldest, and would fill every batch.
        limit = BATCH + min(len(self._refused), MAX_REFUSED)
        expired = await self._ledger.expired(self._clock(), limit=limit)
        now = asyncio.get_running_loop().time()
        known = {run[0] for run in expired}
        if len(expired) < limit:
            self._refused = {uid: refused for uid, refused in self._refused.items() if uid in known}
        due = [run for run in expired if self._refused.get(run[0], (0, 0.0))[1] <= now][:BATCH]
        deleted = await self._delete(due)
        if deleted:
            await self._ledger.forget(deleted, epoch=epoch)
        return len(deleted) > 0 and len(expired) == limit

    async def _delete(self, due: list[tuple[str, str, str, str]]) -> list[str]:
        """Delete the objects of runs, some at once. Returns the uids of those that are gone."""
        now = asyncio.get_running_loop().time()
        waiting = due[::-1]
        deleted: list[str] = []

        async def work() -> None:
            while waiting:
                uid, kind, namespace, name = waiting.pop()
                self._note_refused(uid, now)  # until the deletion has succeeded
                with self._passed_over.guard("retention", f"{kind} {namespace}/{name}"):
                    await self._kube.delete(kind, namespace, name, uid=uid)
                    deleted.append(uid)
                    del self._refused[uid]

        # No group: what is raised has to arrive as it is, above all that another leads by now.
        for result in await asyncio.gather(*(work() for _ in range(CONCURRENCY)), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return deleted

    def _note_refused(self, uid: str, now: float) -> None:
        times, _ = self._refused.get(uid, (0, 0.0))
        first, longest = REFUSED_RETRY
        self._refused[uid] = times + 1, now + min(first * 2.0 ** min(times, 16), longest)
