"""Runs the plain SQL files in `migrations/`, so that a schema change needs no tool of its own.

Migrations only widen: code that is one version older goes on working beside the new schema. Migrations in
the database that this code does not know are therefore fine: it has been rolled back, the schema has not.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import asyncpg

from perdure.domain.records import LedgerError, LedgerUnavailable
from perdure.ledger.database import connect, passing_as_unavailable

OLDEST_SERVER: Final = 14

#: Seconds for one migration, and for waiting while another process migrates.
_TIMEOUT: Final = 600.0
#: Seconds between attempts to reach the server, or to lock a table.
_PAUSE: Final = 0.5
#: How long to wait for a table. Whoever wants it next waits behind us: a backup that reads it for an hour
#: must not stop the operator for an hour.
_LOCK_TIMEOUT: Final = "2s"
#: Any number that nobody else uses.
_LOCK: Final = 0x70657264757265


class MigrationError(LedgerError):
    """The schema cannot be brought up to date; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `name` is its file name, and gives the order."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Hexadecimal SHA-256 of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations that this code brings, in order."""
    found = (entry for entry in files("perdure.ledger").joinpath("migrations").iterdir())
    return sorted(
        (
            Migration(entry.name, entry.read_text(encoding="utf-8"))
            for entry in found
            if entry.name[:1].isdigit()
        ),
        key=lambda migration: migration.name,
    )


async def migrate(url: str, *, wait: float = 0.0) -> list[str]:
    """Bring the schema up to date; returns the names of the migrations that were applied now, in order.

    Safe to run again, and by several processes at once. `wait`: seconds to keep trying while the server
    cannot be reached. Raises LedgerUnavailable, or MigrationError when the schema is not one of ours to
    change: a file differs from what was applied, or the server is older than 14.
    """
    return await apply(url, migrations(), wait=wait)


async def apply(url: str, wanted: list[Migration], *, wait: float = 0.0) -> list[str]:
    """The same, for given migrations."""
    connection = await _connected(url, wait)
    try:
        with passing_as_unavailable():
            return await _apply(connection, wanted)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(f"{error}: grant the right, or migrate as a role that has it") from error
    finally:
        # Gives the lock back, too.
        await connection.close(timeout=5)


async def _connected(url: str, wait: float) -> Any:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        try:
            return await connect(url, timeout=_TIMEOUT)
        except LedgerUnavailable:
            if loop.time() + _PAUSE > deadline:
                raise
            await asyncio.sleep(_PAUSE)


async def _apply(connection: Any, wanted: list[Migration]) -> list[str]:
    version = connection.get_server_version().major
    if version < OLDEST_SERVER:
        raise MigrationError(f"Postgres {version} is too old: the ledger needs {OLDEST_SERVER} or newer")
    # Whoever comes second waits here, and then finds nothing to do.
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    # Asked for first: where the schema was made for us, we may lack the right to make one.
    if await connection.fetchval("select to_regnamespace('perdure')") is None:
        await connection.execute("create schema perdure")
    await connection.execute(
        "create table if not exists perdure.migration ("
        "name text primary key, checksum text not null, applied_at timestamptz not null default now())"
    )
    applied = dict(await connection.fetch("select name, checksum from perdure.migration"))
    for migration in wanted:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"migration {migration.name} was applied with another text than this version of perdure has: "
                "use the version that applied it or a newer one; never edit a migration that was applied"
            )
    done = []
    for migration in wanted:
        if migration.name in applied:
            continue
        await _apply_one(connection, migration)
        done.append(migration.name)
    return done


async def _apply_one(connection: Any, migration: Migration) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _TIMEOUT
    while True:
        try:
            async with connection.transaction():
                await connection.execute("select set_config('lock_timeout', $1, true)", _LOCK_TIMEOUT)
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into perdure.migration (name, checksum) values ($1, $2)",
                    migration.name,
                    migration.checksum,
                )
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if loop.time() > deadline:
                raise
            await asyncio.sleep(_PAUSE)
