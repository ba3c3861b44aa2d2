"""Group commit: the writes of many callers in one transaction, and one flush to disk.

While one batch is under way, the next one fills. An idle writer starts at once, so that a single write is not
delayed for a batch; under load the batches grow by themselves. A batch is one pipelined `fetchmany`, which
Postgres runs as one transaction: one round trip, one commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from perdure.domain.records import LedgerUnavailable
from perdure.ledger.database import KeptConnection, passing, unavailable

#: Items, and bytes of parameters, in one transaction.
BATCH_ITEMS: Final = 256
BATCH_BYTES: Final = 4 * 1024 * 1024

#: Serialization failure and deadlock: rolled back, and the connection is usable.
_UNDONE_STATES: Final = frozenset({"40001", "40P01"})
_CUT_OFF: Final = "the ledger was closed while this was being written"


@dataclass(slots=True, eq=False)
class _Item:
    #: (shard, uid): the order in which every writer takes its locks.
    order: tuple[int, str]
    arguments: tuple[Any, ...]
    size: int
    result: asyncio.Future[Any] = field(repr=False)


class GroupWriter:
    """Runs statements of many callers on one connection.

    A statement must return exactly one row, and lock rows in the order of `order`. Writes of one statement
    and one run keep the order in which they were submitted.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connection = KeptConnection(connect)
        #: Waiting items, by statement.
        self._waiting: dict[str, list[_Item]] = {}
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
        item = _Item(order, arguments, size, asyncio.get_running_loop().create_future())
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
            _fail(items, LedgerUnavailable("the ledger was closed before this was written"))
        self._waiting.clear()
        self._connection.drop()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                # The statement that has waited longest is next: dicts keep the order of insertion, and the
                # rest of a long queue is inserted at the end.
                statement = next(iter(self._waiting))
                queue = self._waiting.pop(statement)
                batch, rest = _cut(queue)
                if rest:
                    self._waiting[statement] = rest
                if batch:
                    await self._write(statement, batch)
            if self._closing:
                return

    async def _write(self, statement: str, batch: list[_Item]) -> None:
        # Stable: items of one run stay in order.
        batch.sort(key=lambda item: item.order)
        try:
            connection = await self._connection.get()
        except Exception as error:
            # All waiting items fail, too: each would only wait for its own timeout.
            waiting = [item for items in self._waiting.values() for item in items]
            self._waiting.clear()
            _fail([*batch, *waiting], error)
            return
        except asyncio.CancelledError:
            _fail(batch, LedgerUnavailable(_CUT_OFF))
            raise
        try:
            rows = await self._send(connection, statement, batch)
        except Exception as error:
            if len(batch) == 1 or not _refused(error):
                _fail(batch, error)
                return
            # Postgres refused one item and rolled back all. Alone each item gets its own answer; a deadlock
            # with another writer is resolved this way as well.
            for position, item in enumerate(batch):
                try:
                    (row,) = await self._send(connection, statement, [item])
                except LedgerUnavailable as error:
                    _fail(batch[position:], error)
                    return
                except Exception as error:
                    _fail([item], error)
                else:
                    _answer(item, row)
        else:
            for item, row in zip(batch, rows, strict=True):
                _answer(item, row)

    async def _send(self, connection: Any, statement: str, batch: list[_Item]) -> list[Any]:
        """Raises LedgerUnavailable if the outcome is unknown, or the connection is lost."""
        try:
            rows: list[Any] = await connection.fetchmany(statement, [item.arguments for item in batch])
            return rows
        except asyncio.CancelledError:
            self._connection.drop()
            _fail(batch, LedgerUnavailable(_CUT_OFF))
            raise
        except Exception as error:
            if passing(error) and not (_refused(error) and len(batch) > 1):
                # After a timeout the statement may still run: only a new connection is known to be clean.
                self._connection.drop()
                raise unavailable(error) from error
            raise


def _refused(error: Exception) -> bool:
    """True if Postgres has rolled back the batch and the connection is usable."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _UNDONE_STATES:
        return True
    return not isinstance(error, LedgerUnavailable) and not passing(error)


def _cut(queue: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """The first batch of a queue, without items of cancelled callers, and the rest."""
    batch: list[_Item] = []
    size = 0
    for position, item in enumerate(queue):
        if len(batch) == BATCH_ITEMS or (batch and size + item.size > BATCH_BYTES):
            return batch, queue[position:]
        if not item.result.done():
            batch.append(item)
            size += item.size
    return batch, []


def _answer(item: _Item, row: Any) -> None:
    if not item.result.done():
        item.result.set_result(row)


def _fail(batch: list[_Item], error: Exception) -> None:
    for item in batch:
        if item.result.done():
            continue
        if isinstance(error, LedgerUnavailable):
            # One exception for each item: one that several tasks raise collects all their tracebacks.
            own = LedgerUnavailable(*error.args)
            own.__cause__ = error.__cause__
            item.result.set_exception(own)
        else:
            item.result.set_exception(error)
