"""Two gateways on one ledger: what one acknowledged the other has, and a fence holds at both."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from perdure.domain.records import RunState
from perdure.ledger import Ledger
from perdure_agent import Options, Superseded, connect
from tests.integration.gateway.conftest import KEY, AgentOf, GatewayProcess
from tests.integration.gateway.keys import ClusterKeys
from tests.integration.ledger.samples import superseded

#: One that is stored with its row, and one in pieces.
SIZES = (5, 300_000)


@pytest.mark.parametrize("size", SIZES)
async def test_one_writes_and_the_other_reads(
    run: RunState,
    gateway: str,
    gateway_process: GatewayProcess,
    agent_of: AgentOf,
    options: Options,
    size: int,
) -> None:
    await gateway_process.ready()
    pod_uid = run.attempts[KEY].pod_uid
    ours, other = agent_of(gateway, pod_uid), agent_of(gateway_process.url, pod_uid)
    async with connect(ours, options=options) as writer, connect(other, options=options) as reader:
        for number, (by, of) in enumerate(((writer, reader), (reader, writer)), 1):
            body = bytes([number]) * size
            assert await by.checkpoint(body) == number
            restored = await of.restore()
            assert restored is not None
            assert (restored.sequence, restored.data) == (number, body)


async def test_a_superseded_attempt_is_refused_at_both(
    ledger: Ledger,
    run: RunState,
    epoch: int,
    gateway: str,
    gateway_process: GatewayProcess,
    agent_of: AgentOf,
    options: Options,
    cluster: ClusterKeys,
) -> None:
    await gateway_process.ready()
    urls = (gateway, gateway_process.url)
    old = cluster.token(str(run.attempts[KEY].pod_uid))

    async def save(client: aiohttp.ClientSession, url: str, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        async with client.put(f"{url}/agent/v1/checkpoints", data=b"x", headers=headers) as response:
            return response.status

    async with aiohttp.ClientSession() as client:
        # Both have cached the session of the attempt as open.
        assert await asyncio.gather(*(save(client, url, old) for url in urls)) == [201, 201]
        new = await superseded(ledger, run, epoch)
        assert await asyncio.gather(*(save(client, url, old) for url in urls)) == [409, 409]
        token = cluster.token(str(new.pod_uid))
        assert await asyncio.gather(*(save(client, url, token) for url in urls)) == [201, 201]
    for url in urls:
        with pytest.raises(Superseded):
            async with connect(agent_of(url, run.attempts[KEY].pod_uid), options=options) as agent:
                await agent.checkpoint(b"late")
