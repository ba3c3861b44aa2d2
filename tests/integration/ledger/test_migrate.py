"""Migrations are applied once, however many processes apply them and however often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.domain.records import LedgerUnavailable
from perdure.ledger import Ledger, MigrationError, migrate, sessions
from perdure.ledger.migrate import Migration, apply, migrations
from tests.integration.ledger.samples import load_live
from tests.support.waiting import until


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def test_once_is_enough(database_url: str, connection: Any) -> None:
    names = [migration.name for migration in migrations()]
    assert names[0] == "0001_initial.sql"
    assert await migrate(database_url) == names
    assert await migrate(database_url) == []
    assert await connection.fetchval("select count(*) from perdure.shard") == 64
    rows = await connection.fetch("select name from perdure.migration order by name")
    assert [row["name"] for row in rows] == names


async def test_several_at_once(database_url: str, connection: Any) -> None:
    results = await asyncio.gather(*(migrate(database_url) for _ in range(6)))
    assert sorted(results)[-1] == [migration.name for migration in migrations()]
    assert sorted(results)[:-1] == [[]] * 5
    locks = await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'")
    assert locks == 0


@pytest.mark.parametrize("more", [0, 2])
async def test_a_second_one_waits_longer_than_other_sessions(
    database_url: str, connection: Any, more: int
) -> None:
    """The advisory lock is held for longer than `lock_timeout` of every other session (2 s)."""
    slow = Migration("9998_slow.sql", "select pg_sleep(3.5); create table perdure.slow ()")
    wanted = [*migrations(), slow]
    later = [Migration(f"9999_{number}.sql", f"create table perdure.n{number} ()") for number in range(more)]
    await migrate(database_url)
    first = asyncio.create_task(apply(database_url, wanted))

    async def sleeping() -> Any:
        return await connection.fetchval("select count(*) from pg_stat_activity where wait_event = 'PgSleep'")

    await until(sleeping)
    second = asyncio.create_task(apply(database_url, [*wanted, *later]))

    async def waits() -> Any:
        return await connection.fetchval(
            "select clock_timestamp() - state_change > $1::float8 * interval '1 second' from pg_stat_activity"
            " where wait_event = 'advisory' and datname = current_database()",
            sessions.LOCK_TIMEOUT + 0.3,
        )

    await until(waits)
    assert not first.done()
    assert await first == ["9998_slow.sql"]
    assert await second == [migration.name for migration in later]


async def test_a_changed_migration_is_refused(database_url: str, connection: Any) -> None:
    await migrate(database_url)
    await connection.execute("update perdure.migration set checksum = 'other'")
    added = Migration("9999_more.sql", "create table perdure.more ()")
    with pytest.raises(MigrationError, match=r"0001_initial\.sql was applied with another text"):
        await apply(database_url, [*migrations(), added])
    assert await connection.fetchval("select to_regclass('perdure.more')") is None


async def test_a_failing_migration_leaves_the_earlier_ones(database_url: str, connection: Any) -> None:
    good = Migration("9998_good.sql", "create table perdure.good ()")
    bad = Migration("9999_bad.sql", "create table perdure.bad (); select 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await apply(database_url, [*migrations(), good, bad])
    assert await connection.fetchval("select to_regclass('perdure.bad')") is None
    repaired = Migration("9999_bad.sql", "create table perdure.bad ()")
    assert await apply(database_url, [*migrations(), good, repaired]) == ["9999_bad.sql"]


async def test_code_that_was_rolled_back_works_on(database_url: str) -> None:
    await apply(database_url, [*migrations(), Migration("9999_newer.sql", "create table perdure.newer ()")])
    assert await migrate(database_url) == []


async def test_a_role_that_may_not_create_schemas(database_url: str, connection: Any) -> None:
    role = f"role_{database_url.partition('@/')[2].partition('?')[0]}"
    url = database_url.replace("postgres@", f"{role}@")
    await connection.execute(f"create role {role} login")
    try:
        with pytest.raises(MigrationError, match=r"permission denied.*grant"):
            await migrate(url)
        await connection.execute(f"create schema perdure authorization {role}")
        assert await migrate(url) == [migration.name for migration in migrations()]
        async with Ledger(url) as ledger:
            await ledger.ready()
            assert await ledger.take_epoch("a") == 1
    finally:
        await connection.execute(f"drop owned by {role} cascade")
        await connection.execute(f"drop role {role}")


async def test_ready_says_what_to_do(database_url: str) -> None:
    async with Ledger(database_url) as ledger:
        with pytest.raises(LedgerUnavailable, match="run `perdure migrate`"):
            await ledger.ready()
        with pytest.raises(LedgerUnavailable, match="run `perdure migrate`"):
            await load_live(ledger)
        await migrate(database_url)
        await ledger.ready()
        assert await load_live(ledger) == []
        await ledger.database.fetch("delete from perdure.migration")
        with pytest.raises(LedgerUnavailable, match=r"lacks 0001_initial\.sql"):
            await ledger.ready()


async def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        await migrate(f"postgresql://postgres:hidden@/perdure?host={tmp_path}", wait=0.6)
