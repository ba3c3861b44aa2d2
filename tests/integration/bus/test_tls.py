"""TLS and a login to NATS, as the URL asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.bus.connection import Bus
from perdure.bus.errors import BusUnavailable
from tests.integration.nats import NatsServer, running_nats
from tests.support.certificates import Authority


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NatsServer]:
    authority = Authority()
    authority.issue(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    folder = tmp_path / "nats"
    folder.mkdir()
    options = ("--tls", "--tlscert", str(tmp_path / "tls.crt"), "--tlskey", str(tmp_path / "tls.key"))
    async with running_nats(folder, *options, "--user", "perdure", "--pass", "word") as started:
        yield started


async def test_events_over_tls_with_a_login(server: NatsServer) -> None:
    async with Bus(f"tls://perdure:word@127.0.0.1:{server.port}", name="test") as bus:
        await bus.connect(timeout=10)
        assert bus.client.connected_url is not None
        info = await bus.jetstream.account_info()
        assert info.streams == 0


@pytest.mark.parametrize("login", ["", "perdure:other@"])
async def test_a_wrong_login_is_refused(server: NatsServer, login: str) -> None:
    async with Bus(f"tls://{login}127.0.0.1:{server.port}", name="test") as bus:
        with pytest.raises(BusUnavailable):
            await bus.connect(timeout=3)


async def test_another_authority_is_refused(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.crt").write_bytes(Authority().pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.crt"))
    async with Bus(f"tls://perdure:word@127.0.0.1:{server.port}", name="test") as bus:
        with pytest.raises(BusUnavailable):
            await bus.connect(timeout=3)
