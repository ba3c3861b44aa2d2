"""TLS of the gateway: its certificate, the rotation of it, and clients that do not fit."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from pydantic import ValidationError
from tests.support.certificates import Authority
from tests.support.waiting import until
from tests.unit.gateway.conftest import SMALL, SMALL_AGENT
from tests.unit.gateway.memory import MemoryLedger, MemoryVerifier

from perdure.gateway.http import acceptor, tls
from perdure.gateway.http.server import open_listener
from perdure.gateway.http.tls import BadCertificate, Certificate
from perdure.gateway.server import serve
from perdure.settings import Settings
from perdure_agent import Environment, connect


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority()
    made.issue(tmp_path)
    (tmp_path / "ca.crt").write_bytes(made.pem)
    return made


@pytest.fixture
async def port(tmp_path: Path, authority: Authority) -> AsyncIterator[int]:
    """The port of a gateway with the certificate in `tmp_path`."""
    stop = asyncio.Event()
    listener = open_listener("127.0.0.1", 0)
    settings = Settings(gateway_tls_cert_file=tmp_path / "tls.crt", gateway_tls_key_file=tmp_path / "tls.key")
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(
            serve(
                settings,
                ledger=MemoryLedger(),
                verifier=MemoryVerifier(),
                stop=stop,
                limits=SMALL,
                agent_limits=SMALL_AGENT,
                listener=listener,
            )
        )
        yield listener.getsockname()[1]
        stop.set()
        async with asyncio.timeout(10):
            await serving


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "ca.crt")


async def serial(port: int, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return str(found)


async def test_a_checkpoint_arrives_over_tls(port: int, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as client:
        for size in (10, 1500):
            async with client.put(
                f"https://127.0.0.1:{port}/agent/v1/checkpoints",
                data=b"x" * size,
                headers={"Authorization": "Bearer good-pod-1"},
                ssl=trusting(tmp_path),
            ) as answer:
                assert answer.status == 201
        async with client.get(
            f"https://127.0.0.1:{port}/agent/v1/checkpoints/latest",
            headers={"Authorization": "Bearer good-pod-1"},
            ssl=trusting(tmp_path),
        ) as answer:
            assert await answer.read() == b"x" * 1500


async def test_a_rotated_certificate_is_used_without_a_restart(
    port: int, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await serial(port, trusting(tmp_path))
    authority.issue(tmp_path)
    monkeypatch.setattr(tls, "RELOAD_INTERVAL", 0.0)

    async def replaced() -> bool:
        return await serial(port, trusting(tmp_path)) != first

    await until(replaced)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_a_client_of_an_old_protocol_is_refused(port: int, tmp_path: Path) -> None:
    context = trusting(tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await serial(port, context)


async def test_the_sdk_trusts_the_authority_that_it_is_given(port: int, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("good-pod-1")
    environment = Environment(
        gateway_url=f"https://127.0.0.1:{port}", token_file=tmp_path / "token", ca_file=tmp_path / "ca.crt"
    )
    async with connect(environment) as agent:
        assert await agent.checkpoint(b"state") == 1
        restored = await agent.restore()
        assert restored is not None and restored.data == b"state"
        await agent.result("done")


async def test_a_client_that_does_not_shake_hands_is_disconnected(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKE_TIME", 0.1)
    for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(10):
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
        assert b"HTTP/" not in answer
        writer.close()


def test_files_that_do_not_fit_keep_the_last_certificate(tmp_path: Path, authority: Authority) -> None:
    clock = Clock()
    certificate = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key", clock=clock)
    used = certificate.current()
    good = (tmp_path / "tls.key").read_bytes()
    (tmp_path / "tls.key").write_bytes(b"no key")
    clock.now += tls.RELOAD_INTERVAL
    assert certificate.current() is used
    (tmp_path / "tls.key").unlink()
    clock.now += tls.RELOAD_INTERVAL
    assert certificate.current() is used
    (tmp_path / "tls.key").write_bytes(good)
    os.utime(tmp_path / "tls.key", ns=(1, 1))
    clock.now += tls.RELOAD_INTERVAL
    assert certificate.current() is not used


def test_the_files_are_read_at_most_once_per_interval(tmp_path: Path, authority: Authority) -> None:
    clock = Clock()
    certificate = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key", clock=clock)
    used = certificate.current()
    authority.issue(tmp_path)
    clock.now += tls.RELOAD_INTERVAL - 0.01
    assert certificate.current() is used
    clock.now += 0.01
    assert certificate.current() is not used


@pytest.mark.parametrize("content", [b"", b"no key"])
def test_a_gateway_does_not_start_without_a_usable_key(
    tmp_path: Path, authority: Authority, content: bytes
) -> None:
    (tmp_path / "tls.key").write_bytes(content)
    with pytest.raises(BadCertificate, match=r"tls\.key are no certificate and its key"):
        Certificate(tmp_path / "tls.crt", tmp_path / "tls.key", clock=Clock())
    (tmp_path / "tls.key").unlink()
    with pytest.raises(BadCertificate, match=r"tls\.key: No such file"):
        Certificate(tmp_path / "tls.crt", tmp_path / "tls.key", clock=Clock())


def test_certificate_and_key_belong_together() -> None:
    for given in ({"gateway_tls_cert_file": "a"}, {"gateway_tls_key_file": "a"}):
        with pytest.raises(ValidationError, match="belong together"):
            Settings(**given)
    assert Settings(gateway_tls_cert_file="", gateway_tls_key_file="").gateway_tls_cert_file is None
