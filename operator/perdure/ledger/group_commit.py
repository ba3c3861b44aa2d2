"""Group commit: the writes of many callers in one transaction, and one flush to disk.

While one batch is under way, the next one fills. An idle writer starts at once, so that a single write is not
delayed for a batch; under load the batches grow by themselves. A batch is one pipelined `fetchmany`, which
Postgres runs as one transaction: one round trip, one commit.

A batch that meets a lock is rolled back by Postgres after `LOCK_TIMEOUT`, and falls apart into its runs: see
`held_runs.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from perdure.domain.records import LedgerUnavailable
from perdure.ledger.database import KeptConnection
from perdure.ledger.held_runs import HeldRuns
from perdure.ledger.sessions import lock_wait_ended
from perdure.ledger.write_item import Item, fail, write

#: Items, and bytes of parameters, in one transaction.
BATCH_ITEMS: Final = 256
BATCH_BYTES: Final = 4 * 1024 * 1024

_CUT_OFF: Final = "the ledger was closed while this was being written"


class GroupWriter:
    """Runs statements of many callers on one connection.

    A statement must return exactly one row, and lock rows in the order of `order`. Writes of one statement
    and one run keep the order in which they were submitted.
    """

    def __init__(
        self, connect: Callable[..., Awaitable[Any]], *, on_held: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`connect` takes `lock_timeout`. `on_held`: see `HeldRuns`."""
        self._connection = KeptConnection(connect)
        self._held = HeldRuns(connect, on_held=on_held)
        #: Waiting items, by statement.
        self._waiting: dict[str, list[Item]] = {}
        #: Items in the next batch: fewer after one that took too long, so that the rest comes through.
        self._items = BATCH_ITEMS
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def submit(
        self, statement: str, arguments: tuple[Any, ...], *, order: tuple[int, str], size: int = 0
    ) -> Any:
        """The statement's row, once its transaction is on disk. `size`: bytes of large arguments.

        Raises LedgerUnavailable, or the error of Postgres about this item, which does not affect other items.
        A caller that is cancelled before its batch starts writes nothing; later the item may be written.
        """
        if self._closing:
            raise LedgerUnavailable("the ledger is closed")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="ledger-writer")
        item = Item(statement, order, arguments, size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(statement, []).append(item)
        self._arrived.set()
        return await item.result

    async def close(self, *, timeout: float) -> None:
        """Write the submitted items, for up to `timeout` seconds, and refuse later ones."""
        self._closing = True
        self._arrived.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait({task}, timeout=timeout)
            task.cancel()
            await asyncio.wait({task})
        for items in self._waiting.values():
            fail(items, LedgerUnavailable("the ledger was closed before this was written"))
        self._waiting.clear()
        await self._held.close(timeout=timeout)
        await self._connection.drop()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                # The statement that has waited longest is next: dicts keep the order of insertion, and the
                # rest of a long queue is inserted at the end.
                statement = next(iter(self._waiting))
                queue = self._waiting.pop(statement)
                batch, rest = self._cut(queue)
                if rest:
                    self._waiting[statement] = rest
                if batch:
                    await self._write(batch)
            if self._closing:
                return

    async def _write(self, batch: list[Item]) -> None:
        # Stable: items of one run stay in order.
        batch.sort(key=lambda item: item.order)
        try:
            connection = await self._connection.get()
        except Exception as error:
            # All waiting items fail, too: each would only wait for its own timeout.
            waiting = [item for items in self._waiting.values() for item in items]
            self._waiting.clear()
            fail([*batch, *waiting], error)
            return
        except asyncio.CancelledError:
            fail(batch, LedgerUnavailable(_CUT_OFF))
            raise
        try:
            await write(connection, batch)
        except asyncio.CancelledError:
            fail(batch, LedgerUnavailable(_CUT_OFF))
            await self._connection.drop()
            raise
        except Exception as error:
            if lock_wait_ended(error):
                # Which run is held is unknown: all of the batch leave the way of the others.
                self._held.add([item for item in batch if not item.result.done()])
                return
            # After a timeout the statement may still run: only a new connection is known to be clean.
            fail(batch, error)
            self._items = max(1, len(batch) // 2)
            await self._connection.drop()
        else:
            self._items = min(BATCH_ITEMS, self._items * 2)

    def _cut(self, queue: list[Item]) -> tuple[list[Item], list[Item]]:
        """The first batch of a queue, without items of cancelled callers and of held runs, and the rest."""
        batch: list[Item] = []
        size = 0
        for position, item in enumerate(queue):
            if len(batch) >= self._items or (batch and size + item.size > BATCH_BYTES):
                return batch, queue[position:]
            if item.result.done():
                continue
            if self._held.owns(item.order):
                self._held.add([item])
                continue
            batch.append(item)
            size += item.size
        return batch, []
