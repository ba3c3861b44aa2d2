"""The load of the live runs at the start of a term: page by page, while runs that are loaded go on already.

All live runs at once may need more memory, and one statement more time, than a process has. A run that cannot
be read is set aside: its own passes try again, and the other runs go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import structlog

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.passed_over import PassedOver
from perdure.control.ports import LedgerPort
from perdure.control.runs.live_runs import LiveRuns
from perdure.domain.records import Deposed, LedgerError, LiveEntry

#: Live runs of one page, and bytes of their states by the ledger's estimate. A larger run is a page alone.
PAGE_RUNS = 100
PAGE_BYTES = 4 * 1024 * 1024
#: Seconds until a page is asked for again that the ledger did not return.
PAGE_RETRY = 1.0

_log = structlog.get_logger(__name__)


class Loader:
    """Loads the live runs of one term of leadership."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: LedgerPort,
        runs: LiveRuns,
        enqueue: Callable[[RunKey], None],
        passed_over: PassedOver,
    ) -> None:
        """`enqueue` has a run reconciled."""
        self._store = store
        self._ledger = ledger
        self._runs = runs
        self._enqueue = enqueue
        self._passed_over = passed_over
        self._index: list[LiveEntry] = []

    async def begin(self) -> frozenset[RunKey]:
        """Read the index. Returns the runs that `load` enqueues. Raises LedgerError.

        From now on the slots of all live runs are held: no pass may start an attempt that the limits forbid.
        """
        # Runs without a running pod come first: only they wait for a decision.
        index = sorted(
            await self._ledger.live_index(), key=lambda entry: self._store.has_running_pod(_key_of(entry))
        )
        self._runs.expect(index)
        self._index = index
        return frozenset(_key_of(entry) for entry in index)

    async def load(self) -> None:
        """Load all runs of the index, and enqueue each page. Raises Deposed."""
        left_out = 0
        for entries in pages(self._index):
            left_out += await self._load_page(entries)
        # What is wanted of a child also depends on its parent, which another page may have had.
        for key, live in list(self._runs.by_key.items()):
            if live.owner is not None:
                self._enqueue(key)
        _log.info("live runs are loaded", runs=len(self._index), left_out=left_out)
        self._index = []

    async def _load_page(self, entries: Sequence[LiveEntry]) -> int:
        """Load some runs. Returns how many were left out."""
        while True:
            try:
                page = await self._ledger.load_page([entry.uid for entry in entries])
                break
            except LedgerError as error:
                if isinstance(error, Deposed):
                    raise
                _log.warning("live runs were not loaded", error=str(error), again_in=PAGE_RETRY)
                await asyncio.sleep(PAGE_RETRY)
        for entry in entries:
            error_of_run = page.unreadable.get(entry.uid)
            if error_of_run is not None:
                self._passed_over.note("load", _key_of(entry), error_of_run)
        self._runs.restore(page.states)
        for entry in entries:
            self._enqueue(_key_of(entry))
        return len(page.unreadable)


def pages(index: Sequence[LiveEntry]) -> Iterator[list[LiveEntry]]:
    """The entries in order, in pages of at most PAGE_RUNS runs and PAGE_BYTES, or of one run."""
    page: list[LiveEntry] = []
    size = 0
    for entry in index:
        if page and (len(page) == PAGE_RUNS or size + entry.size > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(entry)
        size += entry.size
    if page:
        yield page


def _key_of(entry: LiveEntry) -> RunKey:
    return RunKey(entry.kind, entry.namespace, entry.name)
