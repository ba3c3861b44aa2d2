"""TLS to Postgres as a URL asks for it: an authority and a name that do not fit are refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.domain.records import LedgerUnavailable
from perdure.ledger import Ledger, migrate
from perdure.ledger.requirements import check_server
from tests.integration.postgres import PostgresServer
from tests.support.certificates import Authority

_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


@asynccontextmanager
async def tls_before(server: PostgresServer, folder: Path) -> AsyncIterator[int]:
    """The port of a proxy that ends TLS before Postgres, whose binaries for tests are built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A client that does not ask for TLS gets no answer.
            if await reader.readexactly(8) != _SSL_REQUEST:
                return
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            far_reader, far_writer = await asyncio.open_unix_connection(str(server.socket))
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


@pytest.fixture
async def port(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[int]:
    authority = Authority()
    authority.issue(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "other.crt").write_bytes(Authority().pem)
    async with tls_before(postgres_server, tmp_path) as found:
        yield found


def _url(url: str, host: str, port: int, authority: Path, mode: str = "verify-full") -> str:
    database = url.partition("@/")[2].partition("?")[0]
    return f"postgresql://postgres@{host}:{port}/{database}?sslmode={mode}&sslrootcert={authority}"


async def test_the_ledger_over_tls(database_url: str, port: int, tmp_path: Path) -> None:
    """Migrations, statements, notifications and cancellation all take the encrypted connection."""
    url = _url(database_url, "127.0.0.1", port, tmp_path / "ca.crt")
    assert await check_server(url) == []
    await migrate(url)
    async with Ledger(url) as ledger:
        await ledger.ready()
        assert await ledger.take_epoch("a") == 1
        wakes = ledger.wakes()
        assert await anext(wakes) is None
        await wakes.aclose()


async def test_another_authority_is_refused(database_url: str, port: int, tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match=r"(?i)certificate"):
        await migrate(_url(database_url, "127.0.0.1", port, tmp_path / "other.crt"))


async def test_another_name_is_refused(database_url: str, port: int, tmp_path: Path) -> None:
    """The certificate is for 127.0.0.1; `verify-ca` asks for no name."""
    with pytest.raises(LedgerUnavailable, match=r"(?i)hostname|certificate"):
        await migrate(_url(database_url, "localhost", port, tmp_path / "ca.crt"))
    assert await migrate(_url(database_url, "localhost", port, tmp_path / "ca.crt", "verify-ca"))
