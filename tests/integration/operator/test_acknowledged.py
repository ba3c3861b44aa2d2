"""Checkpoints that were acknowledged, while every process is killed in turn: none is lost or out of order.

COUNT says how many there are to be (`COUNT=20000` is the budget); the writers are agents as any other, with
the SDK, real tokens and the gateway's own process between them and the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.kube.client import KubeClient
from perdure_agent import Environment, Options, Retries, connect
from tests.integration.apiserver import ApiServer
from tests.integration.nats import NatsServer
from tests.integration.operator.conftest import Stage
from tests.integration.operator.process import GatewayProcess
from tests.integration.postgres import PostgresServer
from tests.support.waiting import until

COUNT = int(os.environ.get("COUNT", "1500"))
#: Checkpoints that the ledger keeps of a task, so that in the end every one can be read back.
KEPT = 1000
WRITERS = max(10, -(-COUNT // KEPT))
#: Seconds without any acknowledgement after which something is wrong.
STANDSTILL = 120.0
#: Acknowledged checkpoints between two kills, at least.
BETWEEN_KILLS = min(COUNT // 7, 600)
OPTIONS = Options(retries=Retries(patience=600, first_delay=0.05, longest_delay=0.5))


@pytest.fixture
async def gateway(
    apiserver: ApiServer, ledger_url: str, nats_server: NatsServer, tmp_path: Path
) -> AsyncIterator[GatewayProcess]:
    process = GatewayProcess(
        kubeconfig=apiserver.kubeconfig,
        database_url=ledger_url,
        nats_url=nats_server.url,
        directory=tmp_path,
    )
    await process.start()
    yield process
    await process.kill()


@dataclass(slots=True)
class Writers:
    """Agents that save checkpoints as fast as they are acknowledged."""

    #: Sequence and number of each acknowledged checkpoint, by writer.
    acknowledged: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def total(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    async def write(self, index: int, environment: Environment, count: int) -> None:
        mine = self.acknowledged[index] = []
        async with connect(environment, options=OPTIONS) as agent:
            for number in range(count):
                mine.append((await agent.checkpoint(content(index, number), label=str(number)), number))
                self._news.set()
            saved = await agent.restore()
            assert saved is not None
            assert (saved.sequence, saved.data) == (mine[-1][0], content(index, count - 1))
            await agent.result(count)

    async def until_total(self, total: int) -> None:
        """Wait until so many are acknowledged, however long it takes, as long as there is progress."""
        while self.total < total:
            self._news.clear()
            async with asyncio.timeout(STANDSTILL):
                await self._news.wait()


def content(index: int, number: int) -> bytes:
    """Different for each, and of the size of a small state."""
    return json.dumps({"writer": index, "number": number, "state": [number] * (number % 50)}).encode()


async def environment_of(pod: dict[str, Any], kube: KubeClient, url: str, directory: Path) -> Environment:
    """The environment of an agent in this pod."""
    metadata = pod["metadata"]
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": ["perdure"],
            "expirationSeconds": 3600,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }
    path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/default/token"
    token = (await kube.raw_post(path, request))["status"]["token"]
    own = directory / metadata["name"]
    own.mkdir()
    (own / "token").write_text(token)
    (own / "input.json").write_text("{}")
    return Environment(
        gateway_url=url,
        token_file=own / "token",
        input_file=own / "input.json",
        termination_log=own / "termination-log",
    )


async def test_no_acknowledged_checkpoint_is_lost(
    stage: Stage,
    gateway: GatewayProcess,
    postgres_server: PostgresServer,
    ledger_url: str,
    tmp_path: Path,
) -> None:
    stage.kubelet.script = lambda pod: None
    step = {"name": "write", "forEach": list(range(WRITERS)), "agent": {"image": "agent"}}
    made = await stage.apply("hammer", {"steps": [step], "retention": {"checkpointsPerTask": KEPT}})
    uid = made["metadata"]["uid"]

    async def all_run() -> list[dict[str, Any]] | None:
        pods, _ = await stage.kube.list("Pod", namespace=stage.namespace)
        return pods if sum(pod["status"].get("phase") == "Running" for pod in pods) == WRITERS else None

    pods = await until(all_run, within=STANDSTILL)
    assert pods is not None
    writers = Writers()
    each = -(-COUNT // WRITERS)
    kills = 0
    async with asyncio.TaskGroup() as group:
        for pod in pods:
            index = int(pod["metadata"]["labels"]["perdure.dev/index"])
            environment = await environment_of(pod, stage.kube, gateway.url, tmp_path)
            group.create_task(writers.write(index, environment, each))
        for victim in itertools.cycle(("gateway", "postgres", "operator")):
            goal = writers.total + BETWEEN_KILLS
            if goal >= each * WRITERS:
                break
            await writers.until_total(goal)
            if victim == "postgres":
                postgres_server.kill()
                await postgres_server.start_soon()
            else:
                process = gateway if victim == "gateway" else stage.operator
                await process.kill()
                await process.start()
            kills += 1
    await stage.until_complete("hammer", within=STANDSTILL)

    assert kills >= 3
    assert writers.total == each * WRITERS >= COUNT
    await check_ledger(ledger_url, uid, writers)
    events = await stage.events(uid)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert all(event.attempt in (None, 1) for event in events)
    print(f"{writers.total} acknowledged checkpoints, {kills} kills, none lost")


async def check_ledger(ledger_url: str, uid: str, writers: Writers) -> None:
    """Each acknowledged checkpoint is in the ledger, under its number, with its content, and in order."""
    connection = await asyncpg.connect(ledger_url)
    try:
        rows = await connection.fetch(
            "select index, sequence, label, sha256 from perdure.checkpoint where workflow_uid = $1", uid
        )
    finally:
        await connection.close()
    kept = {(row["index"], row["sequence"]): (row["label"], row["sha256"]) for row in rows}
    for index, acknowledged in writers.acknowledged.items():
        sequences = [sequence for sequence, _ in acknowledged]
        assert sequences == sorted(set(sequences)), f"writer {index}: numbers out of order"
        newest = max(sequence for other, sequence in kept if other == index)
        assert newest == sequences[-1]
        for sequence, number in acknowledged:
            if sequence <= newest - KEPT:
                continue  # a checkpoint whose answer was lost was sent twice, and displaced an old one
            expected = (str(number), hashlib.sha256(content(index, number)).digest())
            assert kept.get((index, sequence)) == expected, f"writer {index}: checkpoint {sequence}"
