"""The work queue: keys to be reconciled, each handled by one worker at a time.

A key that is added while it waits is one entry; one that is added while a worker has it is reconciled
again afterwards. A key names what to reconcile and carries no event, so nothing is lost by joining two.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque

from perdure.control.cluster_cache.run_key import RunKey

FIRST_DELAY = 0.1
MAX_DELAY = 60.0


class WorkQueue:
    """Deduplicating, per-key exclusive, with delays and backoff. Times are the running event loop's."""

    def __init__(self) -> None:
        self._ready: deque[RunKey] = deque()
        self._waiting: set[RunKey] = set()
        self._active: set[RunKey] = set()
        self._again: set[RunKey] = set()
        self._delayed: list[tuple[float, int, RunKey]] = []
        self._due: dict[RunKey, float] = {}
        #: Failures in a row, and until when to wait after the last one.
        self._failures: dict[RunKey, tuple[int, float]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._workers: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Keys that wait for a worker now."""
        return len(self._ready)

    @property
    def pending(self) -> int:
        """Keys that wait for a worker, or for their time."""
        return len(self._ready) + len(self._due)

    def add(self, key: RunKey) -> None:
        """Reconcile a key as soon as a worker is free."""
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._idle.clear()
            self._ready.append(key)
            self._wake_worker()

    def add_after(self, key: RunKey, delay: float) -> None:
        """Reconcile a key after `delay` seconds, unless it is due sooner anyway."""
        due = asyncio.get_running_loop().time() + max(delay, 0.0)
        if key in self._waiting or (key in self._due and self._due[key] <= due):
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._delayed, (due, self._count, key))
        if self._delayed[0][2] == key:
            self._set_timer()

    def add_failed(self, key: RunKey) -> float:
        """Retry after a failure: 0.1 s, doubled each time up to a minute. Returns the delay.

        A key that was reconciled sooner, because of an event, waits out the rest: many events are not many
        failures.
        """
        now = asyncio.get_running_loop().time()
        failures, until = self._failures.get(key, (0, now))
        delay = until - now
        if delay < FIRST_DELAY / 2:  # timers are not exact
            delay = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures, 16))
            self._failures[key] = (failures + 1, now + delay)
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: RunKey) -> None:
        """Forget a key's failures."""
        self._failures.pop(key, None)

    async def get(self) -> RunKey:
        """The next key. It is the caller's alone until `done`."""
        while not self._ready:
            turn = asyncio.get_running_loop().create_future()
            self._workers.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                # A turn that came together with the cancellation is passed on, or its key would wait.
                if turn.done() and not turn.cancelled() and self._ready:
                    self._wake_worker()
                raise
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._active.add(key)
        return key

    def done(self, key: RunKey) -> None:
        """Give a key back."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        self._note_idle()

    async def idle(self) -> None:
        """Returns as soon as no key waits for a worker and none has one."""
        await self._idle.wait()

    def close(self) -> None:
        """Forget everything that waits."""
        self._ready.clear()
        self._waiting.clear()
        self._again.clear()
        self._delayed.clear()
        self._due.clear()
        self._failures.clear()
        self._note_idle()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note_idle(self) -> None:
        if not self._ready and not self._active:
            self._idle.set()

    def _wake_worker(self) -> None:
        while self._workers:
            turn = self._workers.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._delayed:
            self._timer = asyncio.get_running_loop().call_at(self._delayed[0][0], self._release_due)

    def _release_due(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._delayed:
            due, _, key = self._delayed[0]
            if self._due.get(key) == due and due > now:
                break
            heapq.heappop(self._delayed)
            if self._due.get(key) == due:  # else it was added sooner, or for sooner, in the meantime
                self.add(key)
        self._set_timer()
