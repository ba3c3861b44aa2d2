"""The leader's work: take the epoch, list cluster and ledger, then reconcile until cancelled.

The order of the start guarantees that no decision is based on a partial view: first the fence in the ledger,
then the full relist of the cluster, and only then the first decision. The live runs of the ledger are loaded
page by page, next to the workers: a decision needs its own run whole, and of the others only their slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime

import structlog

from perdure.aio import call, wait_for_event
from perdure.control.cluster_cache.relist import Relisted, relist
from perdure.control.cluster_cache.run_key import SCHEDULE, RunKey
from perdure.control.cluster_cache.run_objects import is_behind
from perdure.control.cluster_cache.store import Store
from perdure.control.leadership.loading import Loader
from perdure.control.leadership.retention import Retention
from perdure.control.ledger_wait import current_pass
from perdure.control.passed_over import MAX_ERROR, THROUGH, PassedOver, place_of
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.queue.workqueue import WorkQueue
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.runs.quarantine import Quarantine
from perdure.control.runs.reconciler import Reconciler
from perdure.control.schedules import ScheduleReconciler
from perdure.domain.records import Deposed, LedgerError, LedgerUnavailable, VersionConflict
from perdure.kube.errors import ApiError
from perdure.kube.reflector import Selection

#: Seconds between attempts to start while ledger or API server are unavailable.
START_RETRY = 1.0
#: Seconds for which heartbeats and checkpoints of agents are debounced. They only change the status, and an
#: agent may save a hundred checkpoints a second. Idle timeouts have timers of their own.
VITALS_DEBOUNCE = 1.0
#: Seconds between attempts to relist a namespace that was left out: from, doubled up to.
LEFT_OUT_RETRY = (1.0, 60.0)
#: Longest delay in seconds before a run whose passes break is reconciled again.
LONGEST_BROKEN = 300.0
#: Failures in a row after which the status says that the API server refuses a request.
FAILURES_SHOWN = 3
#: Live runs that are marked for a full pass before other tasks have a turn.
RUNS_AT_ONCE = 20

_log = structlog.get_logger(__name__)


def reserved_workers(workers: int) -> int:
    """How many further workers serve only namespaces that no worker serves: one for every four."""
    return max(1, workers // 4)


class Leader:
    """The workers and their inputs. `lead` may be called again after its end, and starts from scratch."""

    def __init__(
        self,
        *,
        store: Store,
        queue: WorkQueue,
        kube: KubePort,
        ledger: LedgerPort,
        runs: LiveRuns,
        reconciler: Reconciler,
        cleanup: Cleanup,
        schedules: ScheduleReconciler,
        write_statuses: Callable[[], Awaitable[None]],
        identity: str,
        namespaces: Sequence[str],
        workers: int,
        relist_interval: float,
        clock: Callable[[], datetime],
        while_leading: Callable[[], Awaitable[None]],
        on_cannot_start: Callable[[], None],
        passed_over: PassedOver,
        quarantine: Quarantine,
    ) -> None:
        """`write_statuses` runs for as long as this process leads or tries to begin, and is cancelled then.

        `while_leading` runs next to the workers, from the first full relist until the end of leadership.

        `on_cannot_start` is called after each failed attempt to start: ledger or API server do not answer.
        """
        self._store = store
        self._queue = queue
        self._kube = kube
        self._ledger = ledger
        self._runs = runs
        self._reconciler = reconciler
        self._cleanup = cleanup
        self._schedules = schedules
        self._write_statuses = write_statuses
        self._identity = identity
        self._namespaces = namespaces
        self._workers = workers
        self._relist_interval = relist_interval
        self._clock = clock
        self._while_leading = while_leading
        self._on_cannot_start = on_cannot_start
        self._passed_over = passed_over
        self._quarantine = quarantine
        self._retention = Retention(kube=kube, ledger=ledger, clock=clock, passed_over=passed_over)
        self._loader = Loader(
            store=store, ledger=ledger, runs=runs, enqueue=queue.add, passed_over=passed_over
        )
        self._relist_now = asyncio.Event()
        #: Set once the live runs of the ledger are loaded.
        self.loaded = asyncio.Event()
        self._reconciling = False
        #: resourceVersions of the lists of the first full relist.
        self.listed: Mapping[Selection, str] = {}
        #: Namespaces that may not be read, or were deleted, with the API server's words.
        self.left_out: dict[str, str] = {}
        self._some_left_out = asyncio.Event()

    def is_reconciling(self) -> bool:
        """True while this process leads, from the end of the first full relist."""
        return self._reconciling

    async def lead(self) -> None:
        """Work until cancelled, or until another leader has taken the epoch."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(call(self._write_statuses))
                self.loaded.clear()
                await self._begin()
                self._reconciling = True
                for _ in range(self._workers + reserved_workers(self._workers)):
                    group.create_task(self._work())
                group.create_task(self._load())
                group.create_task(self._listen())
                group.create_task(self._relist())
                group.create_task(self._readmit())
                group.create_task(self._retention.run(lambda: self._reconciler.epoch))
                group.create_task(call(self._while_leading))
        except* Deposed:
            _log.warning("another operator has taken over", epoch=self._reconciler.epoch)
        finally:
            self._reconciling = False
            await self._reconciler.close()
            self._queue.close()
            # Passes were cancelled between commit and action. In-memory state that claims more than was done
            # would hide that from the next term, so all of it is dropped.
            self._runs.clear()

    async def _begin(self) -> None:
        """Fence older leaders, list the cluster, then read the index of the live runs of the ledger."""
        while True:
            try:
                self._reconciler.epoch = await self._ledger.take_epoch(self._identity)
                await self._quarantine.begin()
                relisted = await relist(self._kube, self._store, self._namespaces, self._passed_over)
                self.listed = relisted.versions
                self._note_left_out(self._namespaces, relisted)
                to_load = await self._loader.begin()
                break
            except (LedgerError, ApiError) as error:
                _log.warning("waiting to begin", error=str(error))
                self._on_cannot_start()
                if isinstance(error, LedgerUnavailable):
                    for key in self._unfinished():
                        self._runs.note_unavailable(key)
                await asyncio.sleep(START_RETRY)
        # Runs to load are enqueued with their pages: to load each alone would take several times as long.
        for key in self._unfinished():
            if key not in to_load:
                self._queue.add(key)
        _log.info("working", epoch=self._reconciler.epoch, live_runs=len(to_load))

    async def _load(self) -> None:
        await self._loader.load()
        self.loaded.set()

    def relist_soon(self) -> None:
        """Relist the whole cluster without waiting for the interval."""
        self._relist_now.set()

    def _unfinished(self) -> list[RunKey]:
        """Every run and schedule that must be reconciled even without an event."""
        self._store.pop_dirty_owners()
        return [
            *(key for key, root in self._store.roots.items() if not root.finished),
            *(key for key, root in self._store.roots.items() if root.finished and is_behind(root)),
            *self._store.altered,
            *self._store.orphaned(),
            *self._store.finished_with_pods(),
            *self._cleanup.pending_runs,
            *self._store.schedules,
        ]

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            current_pass.set(key)
            try:
                if await self._quarantine.holds(key):
                    continue
                reconcile = self._schedules.reconcile if key.kind == SCHEDULE else self._reconciler.reconcile
                subject = self._quarantine.subject(key)
                delay = await self._quarantine.journal.watch(subject, reconcile(key))
                await self._quarantine.note_succeeded(key)
                self._queue.succeeded(key)
                self._runs.note_succeeded(key)
                if delay is not None:
                    self._queue.add_after(key, delay)
            except VersionConflict:
                self._queue.add(key)  # an agent wrote to the run first: decide again at once
            except (ApiError, LedgerError) as error:
                if isinstance(error, Deposed):
                    raise
                if isinstance(error, LedgerUnavailable):
                    self._runs.note_unavailable(key)
                delay = self._queue.add_failed(key)
                if isinstance(error, ApiError) and self._queue.failures(key) >= FAILURES_SHOWN:
                    self._runs.note_failing(key, f"the API server refuses a request: {error.message}")
                _log.warning("pass failed", run=key, error=str(error), again_in=delay)
            except THROUGH:
                raise
            except BaseException as error:
                # A defect that one run triggers must not stop the others. The panic of a native library is no
                # Exception, and would end the workers' task group, and so the process.
                delay = self._queue.add_failed(key, longest=LONGEST_BROKEN, hold=True)
                self._passed_over.counts["pass"] += 1
                self._runs.note_failing(key, f"a defect of the operator ({place_of(error)})", report=True)
                _log.exception("pass broke", run=key, again_in=delay)
            finally:
                self._queue.done(key)

    def note_slow_ledger(self, key: RunKey, silent: bool) -> None:
        """The ledger does not answer a pass. `silent`: nor any other, so runs without a worker wait, too."""
        self._runs.note_unavailable(key)
        if silent:
            for waiting in self._queue.ready():
                self._runs.note_unavailable(waiting)

    async def _listen(self) -> None:
        """Enqueue runs that agents have written to."""
        async with aclosing(self._ledger.wakes()) as wakes:
            async for wake in wakes:
                with self._passed_over.guard("wake", wake):
                    for key in self._runs.note_wake(wake):
                        if wake is None or wake.reported:
                            self._queue.add(key)
                        else:
                            self._queue.add_after(key, VITALS_DEBOUNCE)

    async def _relist(self) -> None:
        while True:
            await wait_for_event(self._relist_now, self._relist_interval)
            self._relist_now.clear()
            # A namespace that was left out is relisted by `_readmit`, at its own pace.
            wanted = [it for it in self._namespaces if it not in self.left_out]
            with self._passed_over.guard("relist", "periodic"):
                await self._relist_some(wanted)

    async def _readmit(self) -> None:
        """Relist namespaces that were left out, with backoff, until the API server allows it."""
        first, longest = LEFT_OUT_RETRY
        delay = first
        while True:
            if not self.left_out:
                self._some_left_out.clear()
                await self._some_left_out.wait()
                delay = first
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)
            with self._passed_over.guard("relist", "namespaces left out"):
                await self._relist_some(sorted(self.left_out))

    async def _relist_some(self, namespaces: Sequence[str]) -> None:
        """Relist these namespaces (all, if the installation watches all), then reconcile everything."""
        if self._namespaces and not namespaces:
            return
        relisted = await relist(self._kube, self._store, namespaces, self._passed_over)
        self._note_left_out(namespaces, relisted)
        for number, live in enumerate(list(self._runs.by_uid.values()), 1):
            with self._passed_over.guard("full pass", live.key):
                if self._runs.by_uid.get(live.uid) is live:  # else the run was dropped meanwhile
                    self._runs.request_full_pass(live)
            if number % RUNS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for key in self._runs.by_key:
            self._queue.add(key)
        for key in self._unfinished():
            self._queue.add(key)

    def _note_left_out(self, namespaces: Sequence[str], relisted: Relisted) -> None:
        for namespace in namespaces:
            error = relisted.left_out.get(namespace)
            if error is None and self.left_out.pop(namespace, None) is not None:
                _log.info("namespace can be read again", namespace=namespace)
            elif error is not None:
                if namespace not in self.left_out:
                    self._passed_over.counts["namespace"] += 1
                    _log.error(
                        "namespace cannot be read, and is left out until it can",
                        namespace=namespace,
                        error=str(error)[:MAX_ERROR],
                    )
                self.left_out[namespace] = str(error)[:MAX_ERROR]
                self._some_left_out.set()
