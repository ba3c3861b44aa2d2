"""The work queue: keys to be reconciled, each handled by one worker at a time.

A key that is added while it waits is one entry; one that is added while a worker has it is reconciled
again afterwards. A key names what to reconcile and carries no event, so nothing is lost by joining two.

Namespaces take turns: the ten thousand runs of one do not delay those of another. Workers beyond `shared`
serve only namespaces that no worker serves, so that slow passes of one namespace cannot take all workers.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, OrderedDict, deque

from perdure.control.cluster_cache.run_key import RunKey

FIRST_DELAY = 0.1
MAX_DELAY = 60.0


class WorkQueue:
    """Deduplicating, per-key exclusive, with delays and backoff. Times are the running event loop's."""

    def __init__(self, *, shared: int | None = None) -> None:
        """`shared`: keys with workers beyond which a namespace that has a worker waits; None for no limit."""
        self._shared = shared
        #: Keys that wait for a worker, by namespace; the namespace whose turn is next comes first.
        self._ready: OrderedDict[str, deque[RunKey]] = OrderedDict()
        #: Keys of each namespace with workers.
        self._active_in: Counter[str] = Counter()
        #: Keys that are not reconciled before a time, whatever happens, because their passes break.
        self._held: dict[RunKey, float] = {}
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
        return len(self._waiting)  # not the sum over all namespaces: every change of a status asks

    @property
    def pending(self) -> int:
        """Keys that wait for a worker, or for their time."""
        return len(self) + len(self._due)

    def ready(self) -> list[RunKey]:
        """The keys that wait for a worker now."""
        return [key for keys in self._ready.values() for key in keys]

    def add(self, key: RunKey) -> None:
        """Reconcile a key as soon as a worker is free, and not before the end of its hold."""
        if key in self._held:
            self.add_after(key, 0.0)
            return
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._idle.clear()
            self._ready.setdefault(key.namespace, deque()).append(key)
            self._wake_worker()

    def add_after(self, key: RunKey, delay: float) -> None:
        """Reconcile a key after `delay` seconds, unless it is due sooner anyway."""
        due = asyncio.get_running_loop().time() + max(delay, 0.0)
        due = max(due, self._held.get(key, due))
        if key in self._waiting or (key in self._due and self._due[key] <= due):
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._delayed, (due, self._count, key))
        if self._delayed[0][2] == key:
            self._set_timer()

    def add_failed(self, key: RunKey, *, longest: float = MAX_DELAY, hold: bool = False) -> float:
        """Retry after a failure: 0.1 s, doubled each time up to `longest`. Returns the delay.

        A key that was reconciled sooner, because of an event, waits out the rest: many events are not many
        failures. With `hold` the key is not reconciled sooner: events of a run whose passes break would else
        take the time of the workers.
        """
        now = asyncio.get_running_loop().time()
        failures, until = self._failures.get(key, (0, now))
        delay = until - now
        if delay < FIRST_DELAY / 2:  # timers are not exact
            delay = min(longest, FIRST_DELAY * 2.0 ** min(failures, 16))
            self._failures[key] = (failures + 1, now + delay)
        if hold:
            self._held[key] = now + delay
        self.add_after(key, delay)
        return delay

    def failures(self, key: RunKey) -> int:
        """How often in a row a key has failed."""
        return self._failures.get(key, (0, 0.0))[0]

    def release(self, key: RunKey) -> None:
        """End the hold of a key: its object has changed, and its passes may succeed now."""
        self._held.pop(key, None)

    def succeeded(self, key: RunKey) -> None:
        """Forget a key's failures."""
        self._failures.pop(key, None)
        self._held.pop(key, None)

    async def get(self) -> RunKey:
        """The next key. It is the caller's alone until `done`."""
        while (namespace := self._next()) is None:
            turn = asyncio.get_running_loop().create_future()
            self._workers.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                # A turn that came together with the cancellation is passed on, or its key would wait.
                if turn.done() and not turn.cancelled() and self._ready:
                    self._wake_worker()
                raise
        keys = self._ready[namespace]
        key = keys.popleft()
        if keys:
            self._ready.move_to_end(namespace)
        else:
            del self._ready[namespace]
        self._waiting.discard(key)
        self._active.add(key)
        self._active_in[namespace] += 1
        return key

    def _next(self) -> str | None:
        """The namespace whose turn is next; None if no key may have a worker now."""
        if self._shared is None or len(self._active) < self._shared:
            return next(iter(self._ready), None)
        return next((namespace for namespace in self._ready if not self._active_in[namespace]), None)

    def done(self, key: RunKey) -> None:
        """Give a key back."""
        self._active.discard(key)
        self._active_in[key.namespace] -= 1
        if not self._active_in[key.namespace]:
            del self._active_in[key.namespace]
        if self._ready:
            self._wake_worker()  # a key that had to wait for its namespace may be served now
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
        self._held.clear()
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
                self._held.pop(key, None)
                self.add(key)
        self._set_timer()
