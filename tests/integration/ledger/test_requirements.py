"""What Postgres must be: each fault is found on a real server, with what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from perdure.cli.main import app
from perdure.domain.records import LedgerUnavailable
from perdure.ledger import DatabaseRefused, requirements, watch_start
from perdure.ledger.requirements import Unmet, check_server, require_server
from tests.integration.postgres import PostgresServer, running_server
from tests.support.pooler import Mode, Order, pooler_before


@pytest.fixture
async def admin(postgres_server: PostgresServer) -> AsyncIterator[Any]:
    await postgres_server.ensure_running()
    connection = await asyncpg.connect(postgres_server.url())
    yield connection
    await connection.close()


@pytest.fixture
async def role(admin: Any, database_url: str) -> AsyncIterator[str]:
    """A role of its own, which may use the database."""
    name = f"role_{_database(database_url)}"
    await admin.execute(f"create role {name} login")
    yield name
    await admin.execute(f"drop role {name}")


@contextlib.contextmanager
def _server(*options: str, standby: bool = False) -> Iterator[PostgresServer]:
    yield from running_server(*options, standby=standby)


def _database(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def _kinds(unmet: list[Unmet], *, refused: bool = True) -> list[str]:
    return [each.what for each in unmet if each.refused == refused]


async def test_a_server_as_it_should_be(database_url: str) -> None:
    assert await check_server(database_url) == []


@pytest.mark.parametrize("scope", ["database", "role", "role in database"])
async def test_synchronous_commit_must_not_be_off(
    admin: Any, database_url: str, role: str, scope: str
) -> None:
    database = _database(database_url)
    target = {
        "database": f"database {database}",
        "role": f"role {role}",
        "role in database": f"role {role} in database {database}",
    }[scope]
    await admin.execute(f"alter {target} set synchronous_commit = off")
    url = database_url.replace("postgres@", f"{role}@")
    with pytest.raises(DatabaseRefused, match=r"synchronous_commit is off.*RESET.*CHECKS=warn"):
        await require_server(url, enforce=True, wait=0)
    (unmet,) = await require_server(url, enforce=False, wait=0)
    assert unmet.refused
    for level in ("local", "on", "remote_apply"):
        await admin.execute(f"alter {target} set synchronous_commit = {level}")
        assert await check_server(url) == []
    await admin.execute(f"alter {target} reset synchronous_commit")


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
async def test_a_server_that_does_not_write_to_disk(name: str) -> None:
    with _server(f"{name}=off") as server:
        (what,) = _kinds(await check_server(server.url()))
        assert what.startswith(f"{name} is off")
        with pytest.raises(DatabaseRefused, match=f"set {name} = on in postgresql.conf"):
            await require_server(server.url(), enforce=True, wait=0)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_the_encoding_must_be_utf8(admin: Any, postgres_server: PostgresServer, encoding: str) -> None:
    await admin.execute(f"create database other encoding '{encoding}' template template0 locale 'C'")
    try:
        unmet = await check_server(postgres_server.url("other"))
        assert _kinds(unmet) == [f"the encoding of the database is {encoding}"]
    finally:
        await admin.execute("drop database other with (force)")


async def test_a_standby_is_waited_for() -> None:
    with _server(standby=True) as server:
        with pytest.raises(LedgerUnavailable, match=r"standby.*target_session_attrs=read-write"):
            await check_server(server.url(), wait=0.6)
        checking = asyncio.create_task(check_server(server.url(), wait=30))
        connection = await asyncpg.connect(server.url())
        assert await connection.fetchval("select pg_promote(true, 20)")
        await connection.close()
        assert await checking == []


async def test_a_role_that_only_reads_is_reported(admin: Any, database_url: str, role: str) -> None:
    await admin.execute(f"alter role {role} set default_transaction_read_only = on")
    with pytest.raises(LedgerUnavailable, match="read-only"):
        await check_server(database_url.replace("postgres@", f"{role}@"))


async def test_an_old_server_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "OLDEST_SERVER", 99)
    with pytest.raises(DatabaseRefused, match="is too old: use version 99 or newer"):
        await require_server(database_url, enforce=True, wait=0)


async def test_another_isolation_is_a_warning(admin: Any, database_url: str) -> None:
    await admin.execute(
        f"alter database {_database(database_url)} set default_transaction_isolation = 'repeatable read'"
    )
    (unmet,) = await require_server(database_url, enforce=True, wait=0)
    assert not unmet.refused
    assert "repeatable read" in unmet.what


async def test_an_asynchronous_standby_is_a_warning() -> None:
    with _server("max_wal_senders=4") as server:
        standby = await _replicating(server)
        try:
            (unmet,) = await require_server(server.url(), enforce=True, wait=0)
            assert not unmet.refused
            assert "asynchronously" in unmet.what
        finally:
            standby.close()


async def _replicating(server: PostgresServer) -> asyncio.StreamWriter:
    """A connection that replicates, as a standby's does, and never acknowledges."""
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    start = b"\x00\x03\x00\x00user\x00postgres\x00replication\x00true\x00\x00"
    writer.write((len(start) + 4).to_bytes(4, "big") + start)
    query = b"START_REPLICATION 0/1000000 TIMELINE 1\x00"
    async with asyncio.timeout(10):
        await _until(reader, b"Z")
        writer.write(b"Q" + (len(query) + 4).to_bytes(4, "big") + query)
        await _until(reader, b"W")
    return writer


async def _until(reader: asyncio.StreamReader, kind: bytes) -> None:
    while True:
        head = await reader.readexactly(5)
        await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
        if head[:1] == kind:
            return


@pytest.mark.parametrize(
    ("mode", "order"), [("transaction", "newest"), ("transaction", "oldest"), ("statement", "newest")]
)
async def test_a_pooler_of_transactions_is_refused(
    database_url: str, postgres_server: PostgresServer, mode: Mode, order: Order
) -> None:
    async with pooler_before(postgres_server.socket, mode=mode, order=order) as pooler:
        with pytest.raises(DatabaseRefused, match=r"pooler.*pool_mode=session"):
            await require_server(_through(database_url, pooler.port), enforce=True, wait=0)


@pytest.mark.parametrize("notifications", [True, False])
async def test_a_pooler_of_sessions_must_pass_notifications_on(
    database_url: str, postgres_server: PostgresServer, notifications: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not notifications:
        monkeypatch.setattr(requirements, "_TIMEOUT", 0.5)
    async with pooler_before(postgres_server.socket, mode="session", notifications=notifications) as pooler:
        unmet = await check_server(_through(database_url, pooler.port))
    expected = [] if notifications else ["a notification (LISTEN, NOTIFY) did not arrive"]
    assert _kinds(unmet) == expected


def _through(url: str, port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/{_database(url)}?sslmode=disable"


async def test_migrate_refuses_or_warns(admin: Any, database_url: str) -> None:
    await admin.execute(f"alter database {_database(database_url)} set synchronous_commit = off")

    async def migrate(checks: str) -> Any:
        environment = {"PERDURE_DATABASE_URL": database_url, "PERDURE_DATABASE_CHECKS": checks}
        return await asyncio.to_thread(CliRunner().invoke, app, ["migrate", "--wait", "0"], env=environment)

    refused = await migrate("enforce")
    assert refused.exit_code == 1
    assert "synchronous_commit is off" in refused.stderr
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("select to_regnamespace('perdure')") is None
    await connection.close()
    warned = await migrate("warn")
    assert warned.exit_code == 0
    assert "warning: synchronous_commit is off" in warned.stderr
    assert "applied 0001_initial.sql" in warned.stdout


async def test_a_process_that_starts_is_stopped(admin: Any, database_url: str) -> None:
    stopped = asyncio.Event()
    await watch_start(database_url, enforce=True, on_refused=stopped.set)
    assert not stopped.is_set()
    await admin.execute(f"alter database {_database(database_url)} set synchronous_commit = off")
    with capture_logs() as logs:
        await watch_start(database_url, enforce=False, on_refused=stopped.set)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert not stopped.is_set()
    with pytest.raises(DatabaseRefused):
        await watch_start(database_url, enforce=True, on_refused=stopped.set)
    assert stopped.is_set()
