"""What the ledger needs of Postgres, checked by `perdure migrate` and by each process at its start.

A server that acknowledges commits before they are on disk, or a pooler that hands each transaction to another
session, works until the first crash or the first failover. The guarantees are lost by then, so such a server
is refused at the start. What costs less than a guarantee is a warning.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog

from perdure.domain.records import LedgerError, LedgerUnavailable
from perdure.ledger.database import CONNECT_TIMEOUT, passing_as_unavailable
from perdure.ledger.queries import SQL

_log = structlog.get_logger(__name__)

#: Oldest supported major version of Postgres.
OLDEST_SERVER: Final = 14
#: Seconds for one statement of the check, and for a notification to arrive.
_TIMEOUT: Final = 5.0
#: Seconds between attempts to reach the server.
_PAUSE: Final = 0.5
#: Channel of the round trip; nothing else listens to it.
_CHANNEL: Final = "perdure_check"

_POOLER: Final = (
    "a pooler between Perdure and Postgres gives each transaction another session",
    "LISTEN, settings and locks need one session for each connection: connect to Postgres itself, or use"
    " session pooling (PgBouncer: pool_mode=session)",
)


@dataclass(frozen=True, slots=True)
class Unmet:
    """A requirement that the server does not meet."""

    what: str
    #: What an administrator can do about it.
    remedy: str
    #: True if a guarantee of Perdure is lost without it.
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


class DatabaseRefused(LedgerError):
    """The server breaks a guarantee of Perdure. The message names each cause and its remedy."""

    def __init__(self, unmet: list[Unmet]) -> None:
        super().__init__(
            "; ".join(map(str, unmet)) + " (PERDURE_DATABASE_CHECKS=warn continues without the guarantee)"
        )


async def check_server(url: str, *, wait: float = 0.0) -> list[Unmet]:
    """What a server lacks, for the role and the database of `url`.

    `wait`: seconds to keep trying while the server cannot be reached or is a standby. Raises
    LedgerUnavailable.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        try:
            with passing_as_unavailable():
                return await _check(url)
        except LedgerUnavailable:
            if loop.time() + _PAUSE > deadline:
                raise
            await asyncio.sleep(_PAUSE)


async def require_server(url: str, *, enforce: bool, wait: float) -> list[Unmet]:
    """As `check_server`; the result is what to warn of. Raises DatabaseRefused if `enforce`."""
    unmet = await check_server(url, wait=wait)
    refused = [each for each in unmet if each.refused]
    if refused and enforce:
        raise DatabaseRefused(refused)
    return unmet


async def watch_start(url: str, *, enforce: bool, on_refused: Callable[[], None]) -> None:
    """Check the server once it answers, log warnings, and call `on_refused` before DatabaseRefused is raised.

    A process starts without its ledger and waits for it, so this runs next to its other work.
    """
    while True:
        try:
            unmet = await require_server(url, enforce=enforce, wait=60.0)
        except LedgerUnavailable as error:
            _log.warning("the database cannot be checked yet", reason=str(error))
            await asyncio.sleep(_PAUSE)
            continue
        except DatabaseRefused as error:
            _log.error("the database is refused", reason=str(error))
            on_refused()
            raise
        except Exception as error:
            # A check that breaks proves nothing about the server.
            _log.warning("the check of the database failed", error=repr(error))
            return
        for each in unmet:
            _log.warning("the database lacks what Perdure needs", what=each.what, remedy=each.remedy)
        return


async def _check(url: str) -> list[Unmet]:
    """One check. The two sessions differ from those of the ledger: a pooler may break prepared statements."""
    first = await _connect(url)
    try:
        second = await _connect(url)
        try:
            try:
                changed = await _session_changes(first, second)
            except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
                changed = True
            if changed:
                # Anything else could have been read in the session of another client.
                return [Unmet(*_POOLER)]
            facts = await first.fetchrow(SQL["server_facts"])
            if facts["in_recovery"] or facts["read_only"]:
                # It passes when a failover ends.
                raise LedgerUnavailable(
                    "the server is a standby or read-only: PERDURE_DATABASE_URL must lead to the primary"
                    " (several hosts: target_session_attrs=read-write)"
                )
            unmet = _unmet_facts(facts, first.get_server_version().major)
            if not await _notifies(first, second):
                unmet.append(
                    Unmet(
                        "a notification (LISTEN, NOTIFY) did not arrive",
                        "connect to Postgres itself, not through a proxy that drops notifications",
                    )
                )
            return unmet
        finally:
            await _close(second)
    finally:
        await _close(first)


async def _connect(url: str) -> Any:
    # Without named statements, which a pooler in transaction mode breaks before the check could say so.
    return await asyncpg.connect(
        url, timeout=CONNECT_TIMEOUT, command_timeout=_TIMEOUT, statement_cache_size=0
    )


async def _close(connection: Any) -> None:
    with suppress(Exception):
        await connection.close(timeout=_TIMEOUT)


async def _session_changes(first: Any, second: Any) -> bool:
    """True if a pooler gives the session of one connection to another one between transactions.

    The second connection opens a transaction while the first one is idle. A pooler in transaction mode then
    lends it the session of the first one, or gives the first one another session afterwards.
    """
    mark = secrets.token_hex(8)
    await first.fetchval("select set_config('perdure.mark', $1, false)", mark)
    pid = await first.fetchval("select pg_backend_pid()")
    await second.execute("begin")
    try:
        if await second.fetchval("select pg_backend_pid()") == pid:
            return True
        for _ in range(2):
            seen = await first.fetchrow(
                "select pg_backend_pid() as pid, current_setting('perdure.mark', true) as mark"
            )
            if (seen["pid"], seen["mark"]) != (pid, mark):
                return True
    finally:
        await second.execute("rollback")
    return bool(await first.fetchval("select pg_backend_pid()") != pid)


def _unmet_facts(facts: Any, version: int) -> list[Unmet]:
    found = []
    if version < OLDEST_SERVER:
        found.append(
            Unmet(f"Postgres {version} is too old", f"use version {OLDEST_SERVER} or newer"),
        )
    if facts["encoding"] != "UTF8":
        found.append(
            Unmet(
                f"the encoding of the database is {facts['encoding']}",
                "create it with ENCODING 'UTF8' TEMPLATE template0",
            )
        )
    if facts["synchronous_commit"] == "off":
        found.append(
            Unmet(
                "synchronous_commit is off, so that a crash of Postgres loses acknowledged checkpoints",
                "ALTER DATABASE or ALTER ROLE … RESET synchronous_commit, or set it to on in postgresql.conf",
            )
        )
    for name, consequence in (
        ("fsync", "so that a crash of the machine loses or destroys the ledger"),
        ("full_page_writes", "so that a crash of the machine may leave pages half written"),
    ):
        if facts[name] == "off":
            found.append(Unmet(f"{name} is off, {consequence}", f"set {name} = on in postgresql.conf"))
    if facts["standbys"] and (
        not facts["synchronous_standby_names"] or facts["synchronous_commit"] == "local"
    ):
        found.append(
            Unmet(
                f"{facts['standbys']} standbys replicate asynchronously: one that takes over lacks the last"
                " acknowledged checkpoints",
                "set synchronous_standby_names, and synchronous_commit to on or remote_apply",
                refused=False,
            )
        )
    if facts["isolation"] != "read committed":
        found.append(
            Unmet(
                f"default_transaction_isolation is {facts['isolation']}: statements that meet each other fail"
                " and are repeated",
                "ALTER DATABASE or ALTER ROLE … RESET default_transaction_isolation",
                refused=False,
            )
        )
    return found


async def _notifies(first: Any, second: Any) -> bool:
    """True if a notification that the second connection sends reaches the first one."""
    arrived = asyncio.Event()
    token = secrets.token_hex(8)

    def on_notify(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload == token:
            arrived.set()

    await first.add_listener(_CHANNEL, on_notify)
    try:
        await second.fetchval("select pg_notify($1, $2)", _CHANNEL, token)
        async with asyncio.timeout(_TIMEOUT):
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        with suppress(Exception):
            await first.remove_listener(_CHANNEL, on_notify)
    return True
