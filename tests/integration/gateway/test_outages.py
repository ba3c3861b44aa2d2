"""Deaths of gateways and of Postgres under running agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg

from perdure.domain.records import RunState
from perdure.ledger import Ledger
from perdure_agent import Options, connect, supervise
from tests.integration.gateway.conftest import KEY, AgentOf, GatewayProcess
from tests.integration.ledger.samples import session_of, started, superseded
from tests.integration.postgres import PostgresServer
from tests.support.waiting import until

#: The most checkpoints that a task may keep.
KEPT = 1000


async def reported(ledger: Ledger, run: RunState) -> Any:
    """The output of the one report of a run, as the ledger has it."""
    row = await ledger.database.fetchrow(
        "select report -> 'output' as output from perdure.attempt"
        " where workflow_uid = $1 and report is not null",
        run.run.uid,
    )
    return row["output"]


async def test_killing_gateways_loses_no_acknowledged_checkpoint(
    ledger: Ledger, epoch: int, gateway_process: GatewayProcess, agent_of: AgentOf, options: Options
) -> None:
    # As many are kept as can be: every acknowledged checkpoint is to be compared, not the newest few.
    run = await started(ledger, epoch, KEY, spec={"retention": {"checkpointsPerTask": KEPT}})
    acknowledged: list[tuple[int, bytes]] = []
    progressed = asyncio.Event()

    async def work() -> None:
        environment = agent_of(gateway_process.url, run.attempts[KEY].pod_uid)
        async with connect(environment, options=options) as agent:
            number = 0
            while not enough.is_set():
                number += 1
                data = b"state %d" % number
                acknowledged.append((await agent.checkpoint(data), data))
                progressed.set()
            await agent.result(number)

    async def more_work() -> None:
        progressed.clear()
        async with asyncio.timeout(30):
            await progressed.wait()

    enough = asyncio.Event()
    working = asyncio.create_task(work())
    for _ in range(2):
        await more_work()
        await gateway_process.kill()
        await gateway_process.start()
    await more_work()
    enough.set()
    async with asyncio.timeout(30):
        await working

    sequences = [sequence for sequence, _ in acknowledged]
    # A lost answer costs a sequence number. No number is assigned twice, and numbers only grow.
    assert sequences == sorted(set(sequences))
    session = await session_of(ledger, run)
    last, data = acknowledged[-1]
    assert session.checkpoint_sequence == last
    kept = [(n, d) for n, d in acknowledged if n > last - KEPT]
    for sequence, data in kept:
        found = await ledger.checkpoint(session, sequence)
        assert found is not None
        assert found.data == data
    listed = await ledger.checkpoints(session, limit=KEPT)
    assert {sequence for sequence, _ in kept} <= {info.sequence for info in listed}
    assert await reported(ledger, run) == len(acknowledged)

    # Events are paced, and a killed gateway takes those with it that it owed. The event of the newest
    # checkpoint stands for them, and follows when the window of the last gateway ends.
    async def newest_has_its_event() -> bool:
        events = await ledger.events(run.run.uid)
        return any(e.type == "task.checkpointed" and e.data["sequence"] == last for e in events)

    await until(newest_has_its_event)


@asynccontextmanager
async def checkpoints_locked(ledger_url: str) -> AsyncIterator[None]:
    """A lock under which every write of a checkpoint waits in Postgres."""
    connection = await asyncpg.connect(ledger_url)
    try:
        await connection.execute("begin; lock table perdure.checkpoint in exclusive mode")
        yield
    finally:
        await connection.close()


async def writers_waiting(ledger_url: str, count: int) -> None:
    """Wait until `count` statements wait for that lock."""
    connection = await asyncpg.connect(ledger_url)
    try:
        async with asyncio.timeout(30):
            while await connection.fetchval(WAITING) != count:  # noqa: ASYNC110 - only Postgres knows
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


WAITING = """
    select count(*) from pg_locks
    where not granted and relation = 'perdure.checkpoint'::regclass
"""


async def test_a_checkpoint_survives_the_death_of_its_gateway(
    ledger: Ledger,
    ledger_url: str,
    run: RunState,
    gateway_process: GatewayProcess,
    agent_of: AgentOf,
    options: Options,
) -> None:
    environment = agent_of(gateway_process.url, run.attempts[KEY].pod_uid)
    async with connect(environment, options=options) as agent:
        assert await agent.checkpoint(b"before") == 1
        async with checkpoints_locked(ledger_url):
            saving = asyncio.create_task(agent.checkpoint(b"in the middle"))
            await writers_waiting(ledger_url, 1)
            await gateway_process.kill()
        await gateway_process.start()
        sequence = await saving
        assert sequence > 1
    session = await session_of(ledger, run)
    found = await ledger.checkpoint(session, sequence)
    assert found is not None
    assert found.data == b"in the middle"


async def test_agents_wait_for_a_postgres_that_was_killed(
    ledger: Ledger,
    run: RunState,
    postgres_server: PostgresServer,
    gateway: str,
    agent_of: AgentOf,
    options: Options,
) -> None:
    async with connect(agent_of(gateway, run.attempts[KEY].pod_uid), options=options) as agent:
        assert await agent.checkpoint(b"before") == 1
        postgres_server.kill()
        try:
            saving = asyncio.create_task(agent.checkpoint(b"during"))
            await agent.progress(50)
            done, _ = await asyncio.wait({saving}, timeout=0.1)
            assert not done
        finally:
            await postgres_server.start_soon()
        assert await saving == 2
        saved = await agent.restore()
        assert saved is not None
        assert saved.data == b"during"
        await agent.result("done")
    assert await reported(ledger, run) == "done"


async def test_an_agent_that_finishes_without_a_gateway_waits(
    ledger: Ledger, run: RunState, gateway_process: GatewayProcess, agent_of: AgentOf, options: Options
) -> None:
    environment = agent_of(gateway_process.url, run.attempts[KEY].pod_uid)

    async def main() -> None:
        async with connect(environment, options=options) as agent:
            await agent.checkpoint(b"before")
            await gateway_process.kill()
            # The work continues without a gateway; only the newest state is spooled.
            for number in range(3):
                await agent.checkpoint_soon(number)
            saving = asyncio.create_task(agent.flush())
            reporting = asyncio.create_task(agent.result("x" * 5000))
            done, _ = await asyncio.wait({saving, reporting}, timeout=0.1)
            assert not done
            await gateway_process.start()
            await reporting
            await saving

    assert await supervise(main) == 0
    number, report = (await ledger.updates(run.run.uid, since=None)).reports[KEY]
    assert (number, report.outcome, await reported(ledger, run)) == (1, "Succeeded", "x" * 5000)


async def test_a_result_that_was_not_delivered_is_reported_by_the_next_attempt(
    ledger: Ledger,
    run: RunState,
    epoch: int,
    gateway_process: GatewayProcess,
    agent_of: AgentOf,
    options: Options,
) -> None:
    impatient = replace(options, retries=replace(options.retries, patience=0.1))
    old = agent_of(gateway_process.url, run.attempts[KEY].pod_uid)
    await gateway_process.ready()

    async def finishes_alone() -> None:
        async with connect(old, options=impatient) as agent:
            await agent.checkpoint({"found": "x" * 5000})
            await gateway_process.kill()
            await agent.result({"found": "x" * 5000})

    # Too long for the termination message. The message stays empty: a part could be taken for a result.
    assert await supervise(finishes_alone) == 75
    assert old.termination_log.read_text() == ""
    assert not (await ledger.updates(run.run.uid, since=None)).reports
    new = await superseded(ledger, run, epoch)
    await gateway_process.start()

    async def goes_on() -> None:
        async with connect(agent_of(gateway_process.url, new.pod_uid), options=options) as agent:
            saved = await agent.restore()
            assert saved is not None
            await agent.result(saved.json())

    assert await supervise(goes_on) == 0
    assert await reported(ledger, run) == {"found": "x" * 5000}
