"""Operator and gateway without work: SIGTERM ends them, their children included, within seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.integration.apiserver import ApiServer
from tests.integration.nats import NatsServer
from tests.integration.operator.conftest import Stage
from tests.integration.operator.process import GatewayProcess, PerdureProcess
from tests.support.waiting import until

#: Seconds in which a process without work ends: the claim. It is a deadline, not a measurement.
STOP_WITHIN = 2.0
#: What evaluates in a child process: a macro.
EVALUATED = {
    "steps": [
        {"name": "a", "wait": {"duration": "1ms"}},
        {
            "name": "b",
            "when": "${[1, 2, 3].map(x, x * 2).exists(x, x == 4)}",
            "dependsOn": ["a"],
            "wait": {"duration": "1ms"},
        },
    ]
}


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


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return set()
    below = set(map(int, text.split()))
    return below.union(*map(descendants, below))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def _stops(process: PerdureProcess) -> None:
    children = descendants(process.pid)
    try:
        async with asyncio.timeout(STOP_WITHIN):
            code = await process.stop()
    except TimeoutError:
        raise AssertionError(f"does not stop\n{process.log()[-4000:]}") from None
    assert code == 0, process.log()[-4000:]
    assert not [pid for pid in children if alive(pid)]


async def test_an_idle_operator_stops_with_its_children(stage: Stage) -> None:
    await stage.apply("evaluated", EVALUATED)
    await stage.until_complete("evaluated")
    await stage.operator.ready()
    assert descendants(stage.operator.pid), "no child evaluated"
    await _stops(stage.operator)


async def test_an_idle_gateway_stops(gateway: GatewayProcess) -> None:
    await gateway.ready()
    await _stops(gateway)


@pytest.mark.parametrize("checks", ["enforce", "warn"])
async def test_a_gateway_on_a_refused_database_ends(
    gateway: GatewayProcess, ledger_url: str, checks: str
) -> None:
    await gateway.kill()
    connection = await asyncpg.connect(ledger_url)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f'alter database "{name}" set synchronous_commit = off')
    await connection.close()
    gateway.set("PERDURE_DATABASE_CHECKS", checks)
    await gateway.start()
    if checks == "enforce":
        assert await gateway.died() == 1
        assert "error: synchronous_commit is off" in gateway.log()
    else:
        await gateway.ready()
        await until(lambda: "synchronous_commit is off" in gateway.log())
        assert await gateway.stop() == 0


async def test_an_operator_on_a_refused_database_ends(stage: Stage, ledger_url: str) -> None:
    await stage.operator.kill()
    connection = await asyncpg.connect(ledger_url)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f'alter database "{name}" set synchronous_commit = off')
    await connection.close()
    await stage.operator.start()
    assert await stage.operator.died() == 1
    assert "error: synchronous_commit is off" in stage.operator.log()
