"""Health, and a stop that completes requests in flight."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.memory import MemoryLedger, MemoryVerifier

from perdure.domain.records import LedgerUnavailable
from perdure.gateway.server import serve
from perdure.kube.tokens import KeysUnavailable
from perdure.settings import Settings


async def test_a_gateway_with_ledger_and_keys_is_healthy_and_ready(gateway: RunningGateway) -> None:
    for path in ("/healthz", "/readyz"):
        reply = await gateway.call("GET", path, prefix="", token=None)
        assert (reply.status, reply.body) == (200, b"ok")


async def test_a_gateway_without_ledger_or_keys_is_healthy_and_not_ready(gateway: RunningGateway) -> None:
    gateway.ledger.error = LedgerUnavailable("connection refused")
    reply = await gateway.call("GET", "/readyz", prefix="", token=None)
    assert (reply.status, reply.kind) == (503, "not-ready")
    assert reply.json()["detail"] == "ledger: connection refused"
    gateway.ledger.error = None
    gateway.verifier.error = KeysUnavailable("not fetched")
    reply = await gateway.call("GET", "/readyz", prefix="", token=None)
    assert reply.json()["detail"] == "keys: not fetched"
    assert (await gateway.call("GET", "/healthz", prefix="", token=None)).status == 200


async def test_a_stop_completes_requests_in_flight_and_accepts_no_new_ones(gateway: RunningGateway) -> None:
    gateway.ledger.gate = asyncio.Event()
    saving = asyncio.create_task(gateway.call("PUT", "/checkpoints", data=b"x"))
    await gateway.ledger.until(lambda: gateway.ledger.entered == 1)
    gateway.stop.set()
    async with asyncio.timeout(10):
        while True:
            try:
                await gateway.call("POST", "/heartbeat")
            except aiohttp.ClientConnectionError:
                break
            await asyncio.sleep(0.01)
    assert not saving.done()
    gateway.ledger.gate.set()
    assert (await saving).status == 201


async def test_a_port_in_use_is_an_error_at_once(gateway: RunningGateway) -> None:
    settings = Settings(gateway_host="127.0.0.1", gateway_port=gateway.port)
    with pytest.raises(OSError, match="in use"):
        await serve(settings, ledger=MemoryLedger(), verifier=MemoryVerifier(), stop=asyncio.Event())
