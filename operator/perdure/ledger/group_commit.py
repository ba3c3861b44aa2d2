"""Group commit: what many callers write at once becomes one transaction, and one flush to disk.

While one batch is on its way, the next one gathers. An idle writer starts at once, so that nobody waits for
company; under load the batches grow by themselves. A batch is one pipelined `fetchmany`, which Postgres
runs as one transaction: one round trip, one commit.
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

#: Serialization failure and deadlock: undone, and the connection is sound.
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
    """Runs statements for many callers on one connection.

    Statements must give exactly one row each, and take their locks in the order of `order`. Writes of one
    statement and run keep the order in which they were submitted.
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

        Raises LedgerUnavailable, or what Postgres has against this item; other items are not affected. A
        caller that is cancelled before its batch starts writes nothing, later it may have written.
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
        """Write what was submitted, for up to `timeout` seconds; refuse what comes after."""
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
                # One statement after the other, in the order in which they came first: dicts keep it, and
                # what is left of a long queue goes to the end.
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
            # Whoever waits would only wait for the next timeout.
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
            # Postgres refused one of them, and with it undid all. Alone each gets its own answer; a deadlock
            # with another writer is settled this way as well.
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
        """Raises LedgerUnavailable if it is unknown what happened, or nothing more can be sent."""
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
    """True if Postgres has undone the batch and goes on answering."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _UNDONE_STATES:
        return True
    return not isinstance(error, LedgerUnavailable) and not passing(error)


def _cut(queue: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """The first batch of a queue, without those whose callers have left, and the rest."""
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
            # One for each: an exception that several tasks raise collects all their tracebacks.
            own = LedgerUnavailable(*error.args)
            own.__cause__ = error.__cause__
            item.result.set_exception(own)
        else:
            item.result.set_exception(error)
