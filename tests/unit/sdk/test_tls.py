"""TLS to the gateway: calls and heartbeats trust the authority that `PERDURE_CA_FILE` names, and no other."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perdure_agent import Environment, GatewayUnavailable, Options, Retries, connect, testing


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "tls.crt").write_bytes(made.public_bytes(pem))
    (folder / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "tls.crt", folder / "tls.key"


@asynccontextmanager
async def behind_tls(url: str, folder: Path) -> AsyncIterator[str]:
    """The URL of a proxy that ends TLS before the gateway at `url`."""
    crt, key = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        ways = [
            asyncio.create_task(copy(reader, inner_writer)),
            asyncio.create_task(copy(inner_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (*ways, inner_writer.transport, writer.transport):
                end.cancel() if isinstance(end, asyncio.Task) else end.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()


@pytest.fixture
async def secure(environment: Environment, tmp_path: Path) -> AsyncIterator[Environment]:
    assert environment.gateway_url is not None
    async with behind_tls(environment.gateway_url, tmp_path) as url:
        yield replace(environment, gateway_url=url, ca_file=tmp_path / "tls.crt")


async def test_calls_and_the_thread_s_heartbeats_trust_the_named_authority(
    secure: Environment, gateway: testing.Gateway
) -> None:
    # The interval of the event loop's heartbeats is longer than the test: those that follow are the thread's.
    async with connect(secure, options=Options(heartbeat_interval=0.02)) as agent:
        assert await agent.checkpoint(b"x") == 1
        agent._session.options = replace(agent._session.options, heartbeat_interval=3600)
        await gateway.until(lambda: len(gateway.heartbeats) >= 5)
        await agent.result(1)
    assert [report.output for report in gateway.reports if isinstance(report, testing.Success)] == [1]


async def test_another_authority_is_not_trusted(
    secure: Environment, gateway: testing.Gateway, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    impatient = Options(retries=Retries(patience=0.2, first_delay=0.01))
    for ca_file in (None, certificate(tmp_path / "other")[0]):
        with pytest.raises(GatewayUnavailable, match=r"(?i)certificate"):
            async with connect(replace(secure, ca_file=ca_file), options=impatient) as agent:
                await agent.checkpoint(b"x")
    assert gateway.requests == []


@pytest.mark.parametrize("content", [None, "", "no certificate"])
async def test_an_unusable_file_is_named(secure: Environment, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"PERDURE_CA_FILE names .*ca\.crt"):
        async with connect(replace(secure, ca_file=file)):
            pass


def test_the_variable_is_read() -> None:
    assert Environment.read({"PERDURE_CA_FILE": "/ca.crt"}).ca_file == Path("/ca.crt")
    assert Environment.read({}).ca_file is None
