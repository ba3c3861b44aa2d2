"""One write of the group commit, and what becomes of several that share a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from perdure.domain.records import LedgerUnavailable
from perdure.ledger.database import passing, unavailable
from perdure.ledger.sessions import lock_wait_ended

#: Serialization failure and deadlock: rolled back, and the connection is usable.
_UNDONE_STATES: Final = frozenset({"40001", "40P01"})


@dataclass(slots=True, eq=False)
class Item:
    """A statement with its arguments, and the future of its caller."""

    statement: str
    #: (shard, uid): the order in which every writer takes its locks.
    order: tuple[int, str]
    arguments: tuple[Any, ...]
    size: int
    result: asyncio.Future[Any] = field(repr=False)


async def write(connection: Any, batch: Sequence[Item]) -> None:
    """Write items of one statement in one transaction, and answer each.

    If Postgres refuses one item and rolls back all, each is written alone and has its own answer; a deadlock
    with another writer is resolved this way as well. Raises LedgerUnavailable if the outcome is unknown or
    the connection is lost, and the error of a wait for a lock that was too long: items that are not answered
    then were not written.
    """
    try:
        rows = await _send(connection, batch)
    except Exception as error:
        if isinstance(error, LedgerUnavailable) or lock_wait_ended(error):
            raise
        if len(batch) == 1:
            fail(batch, unavailable(error) if passing(error) else error)
            return
        for item in batch:
            await write(connection, [item])
    else:
        for item, row in zip(batch, rows, strict=True):
            answer(item, row)


async def _send(connection: Any, batch: Sequence[Item]) -> list[Any]:
    try:
        rows: list[Any] = await connection.fetchmany(batch[0].statement, [item.arguments for item in batch])
        return rows
    except Exception as error:
        if passing(error) and not _rolled_back(error):
            raise unavailable(error) from error
        raise


def _rolled_back(error: BaseException) -> bool:
    """True if Postgres has rolled back the transaction and the connection is usable."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _UNDONE_STATES:
        return True
    if lock_wait_ended(error):
        return True
    return not isinstance(error, LedgerUnavailable) and not passing(error)


def answer(item: Item, row: Any) -> None:
    """Hand the caller the row."""
    if not item.result.done():
        item.result.set_result(row)


def fail(batch: Sequence[Item], error: Exception) -> None:
    """Hand the callers that still wait the error."""
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
