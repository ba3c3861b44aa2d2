"""Which writes wake the operator, and that a gap is announced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from perdure.domain.records import Wake
from perdure.ledger import Ledger
from tests.integration.ledger import samples
from tests.integration.ledger.samples import at
from tests.integration.postgres import PostgresServer


@pytest.fixture
async def gateway(ledger_url: str) -> AsyncIterator[Ledger]:
    async with Ledger(ledger_url) as opened:
        yield opened


async def next_of(wakes: AsyncIterator[Wake | None]) -> Wake | None:
    return await asyncio.wait_for(anext(wakes), 20)


async def test_agents_wake_the_operator(ledger: Ledger, gateway: Ledger, epoch: int) -> None:
    one = await samples.started(ledger, epoch)
    two = await samples.started(ledger, epoch)
    sessions = [await samples.session_of(gateway, state) for state in (one, two)]
    async with aclosing(ledger.wakes()) as wakes:
        assert await next_of(wakes) is None
        ledger.outbox_written.clear()
        await gateway.heartbeat(sessions[1], at(1))
        await gateway.report(sessions[0], samples.success())
        assert await next_of(wakes) == Wake(one.run.uid, reported=True)
        # Neither wrote an event.
        assert not ledger.outbox_written.is_set()

        await gateway.progress(sessions[1], 1, None, at(2))
        assert await next_of(wakes) == Wake(two.run.uid, reported=False)
        await asyncio.wait_for(ledger.outbox_written.wait(), 20)
        await gateway.write_checkpoint(sessions[0], b"x", content_type="text/plain", now=at(3))
        assert await next_of(wakes) == Wake(one.run.uid, reported=False)


async def test_a_signal_wakes_the_operator_as_a_report_does(
    ledger: Ledger, gateway: Ledger, epoch: int
) -> None:
    state = await samples.started(ledger, epoch)
    async with aclosing(ledger.wakes()) as wakes:
        assert await next_of(wakes) is None
        assert await gateway.send_signal(state.run.uid, samples.signal("one"))
        assert await next_of(wakes) == Wake(state.run.uid, reported=True)
        # One that is known changes nothing, so there is nothing to decide about.
        assert not await gateway.send_signal(state.run.uid, samples.signal("one"))
        assert await gateway.send_signal(state.run.uid, samples.signal("two"))
        assert await next_of(wakes) == Wake(state.run.uid, reported=True)


async def test_a_run_is_named_once_until_it_is_taken(ledger: Ledger, gateway: Ledger, epoch: int) -> None:
    one = await samples.started(ledger, epoch)
    two = await samples.started(ledger, epoch)
    sessions = [await samples.session_of(gateway, state) for state in (one, two)]
    async with aclosing(ledger.wakes()) as wakes:
        assert await next_of(wakes) is None
        for number in range(20):
            await gateway.progress(sessions[0], number, None, at(number))
        await gateway.report(sessions[1], samples.success())
        await gateway.report(sessions[0], samples.success())
        named: list[Wake | None] = []
        reported = [Wake(state.run.uid, reported=True) for state in (one, two)]
        while any(wake not in named for wake in reported):
            named.append(await next_of(wakes))
        # The last of 22 may come while the first are being taken; what came before is one.
        assert len(named) < 6


async def test_a_gap_is_announced(
    ledger: Ledger, gateway: Ledger, epoch: int, postgres_server: PostgresServer
) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(gateway, state)
    async with aclosing(ledger.wakes()) as wakes:
        assert await next_of(wakes) is None
        waiting = asyncio.create_task(next_of(wakes))
        await asyncio.sleep(0)
        ledger.outbox_written.clear()
        await ledger.database.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen %'"
        )
        assert await waiting is None
        assert ledger.outbox_written.is_set()
        await gateway.report(session, samples.success())
        assert await next_of(wakes) == Wake(state.run.uid, reported=True)

        postgres_server.kill()
        await postgres_server.start_soon()
        assert await next_of(wakes) is None


async def test_it_starts_before_the_server(ledger: Ledger, postgres_server: PostgresServer) -> None:
    postgres_server.kill()
    async with aclosing(ledger.wakes()) as wakes:
        waiting = asyncio.create_task(next_of(wakes))
        await asyncio.sleep(0)
        await postgres_server.start_soon()
        assert await waiting is None
