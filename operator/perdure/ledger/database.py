"""Connections to Postgres, and the meaning of their failures for the rest of Perdure.

A failure that passes without a change of the data becomes LedgerUnavailable, so that callers have one error
to wait out. Any other failure is a bug or a bad value, and is raised as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import asyncpg
import structlog

from perdure.domain.records import LedgerUnavailable
from perdure.ledger import sessions
from perdure.ledger.queries import SQL
from perdure.ledger.sessions import (
    APPLICATION,
    CANCEL_TIMEOUT,
    LOCK_TIMEOUT,
    SERVER_SHARE,
    STUCK_AFTER,
    Session,
    abandon,
    lock_wait_ended,
)

_log = structlog.get_logger(__name__)

#: Seconds to open a connection.
CONNECT_TIMEOUT: Final = 5.0

#: Seconds between searches for sessions that keep locks and are silent.
_SEARCH_EVERY: Final = 1.0

#: SQLSTATE classes: connection, insufficient resources, operator intervention, system error.
_PASSING_CLASSES: Final = frozenset({"08", "53", "57", "58"})
#: Single states: read-only (a standby, for a moment, during failover), serialization, deadlock, lock not
#: available, idle-in-transaction timeout, bad password and missing database (both are being set up or
#: rotated), missing schema, table or column (migrations run at the same time).
_PASSING_STATES: Final = frozenset(
    {"25006", "25P03", "40001", "40P01", "55P03", "28000", "28P01", "3D000", "3F000", "42P01", "42703"}
)
_MIGRATION_STATES: Final = frozenset({"3F000", "42P01", "42703"})


def passing(error: BaseException) -> bool:
    """True if the failure is of the server or the network, and may pass by itself."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        # A migration changed a table under a prepared statement; the driver has forgotten the statement.
        return True
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _PASSING_CLASSES or state in _PASSING_STATES
    # InterfaceError: the connection or the pool is closed. DataError is its subclass for bad arguments.
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)
    return isinstance(error, (OSError, TimeoutError, asyncpg.InternalClientError))


def unavailable(error: BaseException) -> LedgerUnavailable:
    """The error that callers get. Without the URL: asyncpg's messages name host and database at most."""
    text = str(error) or type(error).__name__
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _MIGRATION_STATES:
        return LedgerUnavailable(f"the ledger's schema is missing or too old, run `perdure migrate`: {text}")
    return LedgerUnavailable(f"the ledger did not answer: {text}")


@contextmanager
def passing_as_unavailable() -> Iterator[None]:
    """Raises failures that pass by themselves as LedgerUnavailable."""
    try:
        yield
    except Exception as error:
        if passing(error):
            raise unavailable(error) from error
        raise


async def _no_reset(_: Any) -> None:
    # No statement sets session state, so a released connection needs no round trip for a reset.
    return


async def connect(url: str, *, timeout: float, lock_timeout: float = LOCK_TIMEOUT) -> Any:
    """One connection outside the pool. `timeout`: seconds for one statement, `lock_timeout`: for one lock."""
    with passing_as_unavailable():
        connection = await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT, command_timeout=timeout, connection_class=Session
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await sessions.prepare(
                    connection, sessions.settings(timeout=timeout, lock_timeout=lock_timeout)
                )
        except BaseException:
            connection.terminate()
            raise
        return connection


class KeptConnection:
    """A connection that one caller keeps: opened when it is needed, and again after it broke.

    To acquire and release a pooled connection costs as much as a short statement.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], *, on_held: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`on_held`: called after a statement of `fetch` that waited too long for a lock."""
        self._connect = connect
        self._on_held = on_held
        self._connection: Any = None
        self._closed = False
        self._turn = asyncio.Lock()

    async def get(self) -> Any:
        """The connection. Raises LedgerUnavailable."""
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        if self._connection is None or self._connection.is_closed():
            await self.drop()
            self._connection = await self._connect()
        return self._connection

    async def drop(self) -> None:
        """Close the connection, and cancel the statement that it runs in the server, too."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await abandon(connection)

    async def close(self) -> None:
        """Close the connection, and refuse to open another."""
        self._closed = True
        await self.drop()

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """The rows of a statement; one caller at a time. Raises LedgerUnavailable."""
        async with self._turn:
            with passing_as_unavailable():
                connection = await self.get()
                try:
                    rows: list[Any] = await connection.fetch(statement, *arguments)
                except asyncpg.PostgresError as error:
                    if self._on_held is not None and lock_wait_ended(error):
                        await self._on_held()
                    raise
                except BaseException:
                    # The statement may still run: only a new connection is known to be clean.
                    await self.drop()
                    raise
                return rows


class Database:
    """The pool. Connections open when they are needed, and again when they broke; none opens at first."""

    def __init__(self, url: str, *, size: int, timeout: float) -> None:
        self._url = url
        self._size = size
        #: Seconds for one statement.
        self.timeout = timeout
        self._searched = -_SEARCH_EVERY
        self._pool: Any = None

    async def open(self) -> None:
        """Create the pool. To be called once, in the event loop that uses the pool."""
        with passing_as_unavailable():
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                init_size=0,
                max_size=self._size,
                timeout=CONNECT_TIMEOUT,
                command_timeout=self.timeout,
                max_inactive_connection_lifetime=300,
                connection_class=Session,
                init=self._prepare,
                reset=_no_reset,
            )

    async def close(self, *, timeout: float) -> None:
        """Wait up to `timeout` seconds for running statements, then terminate them."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(timeout):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def _prepare(self, connection: Any) -> None:
        await sessions.prepare(connection, sessions.settings(timeout=self.timeout))

    async def connect(self, *, lock_timeout: float = LOCK_TIMEOUT) -> Any:
        """A connection outside the pool, for the writer, the relay and the listener."""
        return await connect(self._url, timeout=self.timeout, lock_timeout=lock_timeout)

    async def end_stuck(self) -> None:
        """End sessions that hold locks in the middle of a batch and are silent, at most once a second."""
        now = asyncio.get_running_loop().time()
        if now - self._searched < _SEARCH_EVERY:
            return
        self._searched = now
        # The caller waits for a lock and has an error of its own for that.
        with suppress(LedgerUnavailable):
            async with self._acquire() as connection:
                ended = await connection.fetchval(SQL["end_stuck"], APPLICATION, STUCK_AFTER)
            if ended:
                _log.warning("ended sessions that kept locks and were silent", sessions=ended)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """A pooled connection; waits for a free one as long as a statement may take."""
        try:
            async with self._acquire() as connection:
                yield connection
        except LedgerUnavailable as error:
            if error.__cause__ is not None and lock_wait_ended(error.__cause__):
                await self.end_stuck()
            raise

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Any]:
        with passing_as_unavailable():
            if self._pool is None:
                raise LedgerUnavailable("the ledger is closed")
            pool = self._pool
            connection = await pool.acquire(timeout=self.timeout)
            try:
                yield connection
            finally:
                # A statement that was given up is being cancelled in the server. After the deadline the pool
                # closes the connection.
                with suppress(TimeoutError):
                    await pool.release(connection, timeout=CANCEL_TIMEOUT)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """A pooled connection whose statements all see the same moment."""
        async with (
            self.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        async with self.acquire() as connection:
            rows: list[Any] = await connection.fetch(statement, *arguments)
            return rows

    async def fetchrow(self, statement: str, *arguments: Any, timeout: float | None = None) -> Any:
        """The first row. `timeout`: seconds for the client, where large arguments take longer to arrive."""
        async with self.acquire() as connection:
            return await connection.fetchrow(statement, *arguments, timeout=timeout)

    async def fetchrow_slow(self, statement: str, *arguments: Any, timeout: float) -> Any:
        """The first row of a reading statement that may take longer than usual in the server, too."""
        async with self.acquire() as connection, connection.transaction(readonly=True):
            await sessions.set_local(connection, statement_timeout=timeout * SERVER_SHARE)
            return await connection.fetchrow(statement, *arguments, timeout=timeout)
