"""The contract of the agents' API: the gateway on Postgres."""

from __future__ import annotations

import asyncio

import aiohttp
import asyncpg
import pytest

from perdure.domain.records import RunState
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.http.server import open_listener
from perdure.gateway.server import serve
from perdure.kube.tokens import TokenVerifier
from perdure.ledger import Ledger
from perdure.settings import Settings
from tests.contract.agent_api import CASES, Case
from tests.contract.client import SMALL, Subject
from tests.integration.gateway.conftest import KEY
from tests.integration.gateway.keys import AUDIENCE, ClusterKeys
from tests.integration.ledger.samples import superseded


class OnPostgres(Subject):
    """The product's gateway on the real ledger."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        url: str,
        *,
        ledger: Ledger,
        ledger_url: str,
        run: RunState,
        epoch: int,
        cluster: ClusterKeys,
    ) -> None:
        super().__init__(client, url)
        self._ledger = ledger
        self._ledger_url = ledger_url
        self._run = run
        self._epoch = epoch
        self._cluster = cluster

    @property
    def token(self) -> str:
        pod_uid = self._run.attempts[KEY].pod_uid
        assert pod_uid is not None
        return self._cluster.token(pod_uid)

    @property
    def unrecorded_token(self) -> str:
        return self._cluster.token("unrecorded")

    @property
    def expired_token(self) -> str:
        pod_uid = self._run.attempts[KEY].pod_uid
        assert pod_uid is not None
        return self._cluster.token(pod_uid, lifetime=-3600)

    async def supersede(self) -> None:
        await superseded(self._ledger, self._run, self._epoch, KEY)
        state = await self._ledger.load(self._run.run.uid)
        assert state is not None
        self._run = state

    async def corrupt(self, sequence: int) -> None:
        connection = await asyncpg.connect(self._ledger_url)
        try:
            await connection.execute(
                "update perdure.checkpoint set sha256 = $2 where workflow_uid = $1::uuid and sequence = $3",
                self._run.run.uid,
                bytes(32),
                sequence,
            )
        finally:
            await connection.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_contract(
    case: Case, ledger: Ledger, ledger_url: str, run: RunState, epoch: int, cluster: ClusterKeys
) -> None:
    listener = open_listener("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop = asyncio.Event()
    async with (
        Ledger(ledger_url) as own,
        asyncio.TaskGroup() as group,
        aiohttp.ClientSession() as client,
    ):
        group.create_task(
            serve(
                Settings(),
                ledger=own,
                verifier=TokenVerifier(cluster.fetch, audience=AUDIENCE),
                stop=stop,
                agent_limits=AgentLimits(**SMALL),
                listener=listener,
            )
        )
        await case(
            OnPostgres(
                client,
                url,
                ledger=ledger,
                ledger_url=ledger_url,
                run=run,
                epoch=epoch,
                cluster=cluster,
            )
        )
        stop.set()
