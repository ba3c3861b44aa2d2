"""Writes of runs whose rows another session holds, kept apart so that no other run waits for them.

A batch that met a lock is written here run by run, on a connection of its own. The runs that are free are
written within milliseconds; a run that is held is tried again, in turn with the others, until its writes are
older than `HELD_FOR`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import takewhile
from typing import Any, Final

from perdure.domain.records import LedgerUnavailable
from perdure.ledger.database import KeptConnection, unavailable
from perdure.ledger.sessions import lock_wait_ended
from perdure.ledger.write_item import Item, fail, write

#: Seconds that one try waits for a lock (`lock_timeout`): so long a held run delays the others here.
PATIENCE: Final = 0.25
#: Seconds after which the writes of a held run fail with LedgerUnavailable, so that their callers can decide.
HELD_FOR: Final = 8.0
#: Seconds for which a run that was held to the end is written here only: in a batch it would hold up others.
SUSPECT_FOR: Final = 30.0
#: Seconds between rounds in which no run could be written.
_PAUSE: Final = 0.05

Order = tuple[int, str]


class HeldRuns:
    """The runs that are held, and their writes in the order of submission."""

    def __init__(
        self, connect: Callable[..., Awaitable[Any]], *, on_held: Callable[[], Awaitable[None]] | None
    ) -> None:
        """`on_held`: called when a run is held, to end sessions that hold locks and are gone."""
        self._connection = KeptConnection(lambda: connect(lock_timeout=PATIENCE))
        self._on_held = on_held
        #: Writes with the time at which they fail, by run; the run in work stays until it is through.
        self._queues: dict[Order, list[tuple[float, Item]]] = {}
        #: Runs that were held to the end, and until when they are suspect.
        self._suspects: dict[Order, float] = {}
        self._task: asyncio.Task[None] | None = None

    def owns(self, order: Order) -> bool:
        """True if writes of this run belong here: earlier ones wait, or the run was held a moment ago."""
        if order in self._queues:
            return True
        until = self._suspects.get(order)
        if until is None:
            return False
        if until > asyncio.get_running_loop().time():
            return True
        del self._suspects[order]
        return False

    def add(self, items: list[Item]) -> None:
        """Take over the writes; each is answered here."""
        deadline = asyncio.get_running_loop().time() + HELD_FOR
        for item in items:
            self._queues.setdefault(item.order, []).append((deadline, item))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="ledger-held-runs")

    async def close(self, *, timeout: float) -> None:
        """Try to write what is here for up to `timeout` seconds."""
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait({task}, timeout=timeout)
            task.cancel()
            await asyncio.wait({task})
        self._fail_all(LedgerUnavailable("the ledger was closed before this was written"))
        await self._connection.close()

    async def _run(self) -> None:
        while self._queues:
            written = False
            for order in list(self._queues):
                try:
                    connection = await self._connection.get()
                    written |= await self._write_run(connection, order)
                except asyncio.CancelledError:
                    await self._connection.drop()
                    raise
                except Exception as error:
                    # The outcome is unknown, or no connection can be opened: all would wait for the same.
                    await self._connection.drop()
                    self._fail_all(error)
                    return
            if not written and self._queues:
                await asyncio.sleep(_PAUSE)

    async def _write_run(self, connection: Any, order: Order) -> bool:
        """Write what waits of one run; False if it is held. Raises if the connection is lost."""
        while queue := [entry for entry in self._queues[order] if not entry[1].result.done()]:
            self._queues[order] = queue
            try:
                await write(connection, _first_of_one_statement(queue))
            except Exception as error:
                if not lock_wait_ended(error):
                    raise
                if self._on_held is not None:
                    await self._on_held()
                self._expire(order, error)
                return False
        del self._queues[order]
        self._suspects.pop(order, None)
        return True

    def _expire(self, order: Order, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        queue = self._queues[order]
        over = [item for deadline, item in queue if deadline <= now]
        fail(over, unavailable(error))
        rest = [entry for entry in queue if entry[0] > now and not entry[1].result.done()]
        if rest:
            # To the end: every run has its turn.
            del self._queues[order]
            self._queues[order] = rest
            return
        del self._queues[order]
        self._suspects = {run: until for run, until in self._suspects.items() if until > now}
        self._suspects[order] = now + SUSPECT_FOR

    def _fail_all(self, error: Exception) -> None:
        for queue in self._queues.values():
            fail([item for _, item in queue], error)
        self._queues.clear()


def _first_of_one_statement(queue: list[tuple[float, Item]]) -> list[Item]:
    statement = queue[0][1].statement
    return [item for _, item in takewhile(lambda entry: entry[1].statement == statement, queue)]
