from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
from tests.unit.gateway.memory import MemoryLedger, MemoryVerifier

from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.server import open_listener
from perdure.gateway.server import serve
from perdure.settings import Settings

SMALL = Limits(memory=16_000, uncounted=500, memory_wait=0.2, drain=5)
SMALL_AGENT = AgentLimits(
    checkpoint=2000,
    whole=500,
    window=1000,
    uploads=2,
    listed=5,
    listed_by_default=3,
    output=100,
    result_body=300,
    small_body=200,
    progress_interval=0.05,
    checkpoint_events=2,
    checkpoint_interval=0.05,
)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def kind(self) -> str:
        """The type of the problem document, whose form is checked."""
        assert self.headers["Content-Type"] == "application/problem+json"
        document = self.json()
        assert document["status"] == self.status
        assert document["title"] and document["detail"]
        base, _, kind = document["type"].rpartition("/")
        assert base == "https://perdure.dev/problems"
        return str(kind)


@dataclass
class RunningGateway:
    """A gateway on loopback, with its client."""

    ledger: MemoryLedger
    verifier: MemoryVerifier
    port: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    client: aiohttp.ClientSession = field(init=False)

    async def pause(self, seconds: float) -> None:
        """Let time pass that the gateway measures."""
        await asyncio.sleep(seconds)

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "good-pod-1",
        prefix: str = "/agent/v1",
        **options: Any,
    ) -> Reply:
        headers = options.pop("headers", {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        url = f"http://127.0.0.1:{self.port}{prefix}{path}"
        async with self.client.request(method, url, headers=headers, **options) as response:
            return Reply(
                response.status,
                {name.title(): value for name, value in response.headers.items()},
                await response.read(),
            )


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    listener = open_listener("127.0.0.1", 0)
    running = RunningGateway(MemoryLedger(), MemoryVerifier(), listener.getsockname()[1])
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as client:
        running.client = client
        serving = group.create_task(
            serve(
                Settings(),
                ledger=running.ledger,
                verifier=running.verifier,
                stop=running.stop,
                limits=SMALL,
                agent_limits=SMALL_AGENT,
                listener=listener,
            )
        )
        yield running
        running.stop.set()
        async with asyncio.timeout(10):
            await serving
