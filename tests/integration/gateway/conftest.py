from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from perdure.domain.records import RunState, TaskKey
from perdure.gateway.http.server import open_listener
from perdure.gateway.server import serve
from perdure.kube.tokens import TokenVerifier
from perdure.ledger import Ledger
from perdure.settings import Settings
from perdure_agent import Environment, Options, Retries
from tests.integration.gateway.keys import AUDIENCE, ClusterKeys
from tests.integration.ledger.samples import started
from tests.support.waiting import until

KEY = TaskKey("work")


@pytest.fixture
def cluster() -> ClusterKeys:
    return ClusterKeys()


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with Ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
async def epoch(ledger: Ledger) -> int:
    return await ledger.take_epoch("operator-a")


@pytest.fixture
async def run(ledger: Ledger, epoch: int) -> RunState:
    """A run whose one task has an open first attempt."""
    return await started(ledger, epoch, KEY)


@pytest.fixture
def options() -> Options:
    return Options(retries=Retries(patience=60, first_delay=0.01, longest_delay=0.1))


@pytest.fixture
async def gateway(ledger_url: str, cluster: ClusterKeys) -> AsyncIterator[str]:
    """The URL of a gateway in this process, with a ledger connection of its own."""
    listener = open_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    stop = asyncio.Event()
    async with Ledger(ledger_url) as own, asyncio.TaskGroup() as group:
        verifier = TokenVerifier(cluster.fetch, audience=AUDIENCE)
        group.create_task(serve(Settings(), ledger=own, verifier=verifier, stop=stop, listener=listener))
        yield f"http://127.0.0.1:{port}"
        stop.set()


AgentOf = Callable[..., Environment]


@pytest.fixture
def agent_of(cluster: ClusterKeys, tmp_path: Path) -> AgentOf:
    """The environment of an agent in the pod of this uid."""
    numbers = itertools.count()

    def environment(url: str, pod_uid: str | None) -> Environment:
        assert pod_uid is not None
        own = tmp_path / f"agent-{next(numbers)}"
        own.mkdir()
        (own / "token").write_text(cluster.token(pod_uid))
        (own / "input.json").write_text("{}")
        return Environment(
            gateway_url=url,
            token_file=own / "token",
            input_file=own / "input.json",
            termination_log=own / "termination-log",
        )

    return environment


@dataclass
class GatewayProcess:
    """A gateway that can be killed and started again at the same address."""

    arguments: tuple[str, str, str]
    url: str
    process: asyncio.subprocess.Process | None = field(default=None)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.gateway.process", *self.arguments
        )

    async def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def ready(self) -> None:
        """Wait until the gateway is ready."""

        async def answers() -> bool:
            try:
                async with aiohttp.ClientSession() as client, client.get(f"{self.url}/readyz") as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await until(answers)

    def freeze(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def _running(ledger_url: str, cluster: ClusterKeys, folder: Path) -> AsyncIterator[GatewayProcess]:
    keys = folder / "keys.json"
    keys.write_text(cluster.dump())
    with open_listener("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
    running = GatewayProcess((ledger_url, str(keys), str(port)), f"http://127.0.0.1:{port}")
    await running.start()
    yield running
    if running.process is not None and running.process.returncode is None:
        await running.kill()


@pytest.fixture
async def gateway_process(
    ledger_url: str, cluster: ClusterKeys, tmp_path: Path
) -> AsyncIterator[GatewayProcess]:
    async with _running(ledger_url, cluster, tmp_path) as running:
        yield running


@pytest.fixture
async def two_gateways(
    ledger_url: str, cluster: ClusterKeys, tmp_path: Path
) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    """Two ready gateways on one ledger."""
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(_running(ledger_url, cluster, tmp_path)) for _ in range(2)
        ]
        await one.ready()
        await other.ready()
        yield one, other
