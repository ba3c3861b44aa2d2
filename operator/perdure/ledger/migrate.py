"""Migrations of the schema: the plain SQL files in `migrations/`, applied in order.

Migrations only expand the schema: code of the previous version goes on working with the new schema. So the
database may have migrations that this code does not know: the code was rolled back and the schema was not.
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

#: Seconds for one migration, and for waiting while another process migrates.
_TIMEOUT: Final = 600.0
#: Seconds between attempts to reach the server, or to lock a table.
_PAUSE: Final = 0.5
#: How long to wait for the lock of a table. Later statements queue behind a waiting migration: a backup that
#: reads the table for an hour must not stop the operator for an hour.
_LOCK_TIMEOUT: Final = "2s"
#: Key of the advisory lock: "perdure" in ASCII, which no other application is likely to use.
_LOCK: Final = 0x70657264757265


class MigrationError(LedgerError):
    """The schema cannot be migrated; the message says the remedy."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/`. The order is that of the names, which are file names."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Hexadecimal SHA-256 of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations of this code, in order."""
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
    """Apply the missing migrations; returns the names of those that this call applied, in order.

    Idempotent, and safe to run in several processes at once. `wait`: seconds to keep trying while the server
    cannot be reached. Raises LedgerUnavailable; MigrationError if a file differs from what was applied, or if
    the role lacks a right. What the server must be is checked by `requirements.require_server`.
    """
    return await apply(url, migrations(), wait=wait)


async def apply(url: str, wanted: list[Migration], *, wait: float = 0.0) -> list[str]:
    """As `migrate`, for given migrations."""
    connection = await _connected(url, wait)
    try:
        with passing_as_unavailable():
            return await _apply(connection, wanted)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(f"{error}: grant the right, or migrate as a role that has it") from error
    finally:
        # Releases the advisory lock, too.
        await connection.close(timeout=5)


async def _connected(url: str, wait: float) -> Any:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        try:
            # The advisory lock is held for as long as another process migrates.
            return await connect(url, timeout=_TIMEOUT, lock_timeout=_TIMEOUT)
        except LedgerUnavailable:
            if loop.time() + _PAUSE > deadline:
                raise
            await asyncio.sleep(_PAUSE)


async def _apply(connection: Any, wanted: list[Migration]) -> list[str]:
    # A second process waits here, and then finds no migration to apply.
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    # Checked first: where an administrator created the schema, the role may lack the right to create one.
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
