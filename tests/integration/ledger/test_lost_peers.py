"""A client of Postgres whose network swallows everything: its run waits some seconds, the others do not.

The network is cut at every message of a conversation, and within messages. Nothing is closed by that: no FIN
and no RST reaches Postgres, and its keepalives are answered.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from perdure.domain.records import Commit, Committed, LedgerUnavailable, RunState, TaskKey
from perdure.ledger import Ledger
from perdure.ledger.checkpoint_bytes import PIECE, WHOLE
from tests.integration.ledger import samples
from tests.integration.ledger.samples import at, event
from tests.integration.postgres import PostgresServer
from tests.support.proxy import Proxy, proxy_before
from tests.support.waiting import until

NOISE = random.Random(5).randbytes(3 * PIECE)
LARGE = NOISE + b"end"
assert len(LARGE) > WHOLE
OTHERS = 19
AGENTS = tuple(TaskKey("each", index) for index in range(20))
#: Seconds within which a run that was held goes on: the limits of Postgres, and one more try.
HELD = 20.0


@asynccontextmanager
async def through(
    server: PostgresServer, url: str, *, swallow_after: int | None = None
) -> AsyncIterator[tuple[Proxy, Ledger]]:
    """A ledger of a process on a node of its own."""
    async with proxy_before(server.socket) as proxy:
        proxy.swallow_after = swallow_after
        async with Ledger(_proxied(url, proxy), timeout=3.0) as ledger:
            yield proxy, ledger


def _proxied(url: str, proxy: Proxy) -> str:
    database = url.partition("@/")[2].partition("?")[0]
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}?sslmode=disable"


def _points(messages: list[tuple[str, int]], *, seed: int, within: int) -> list[int]:
    """Numbers of bytes: the end of each message, and some places within messages."""
    ends = [end for _, end in messages]
    chance = random.Random(seed)
    return sorted({*ends, *(chance.randrange(1, ends[-1]) for _ in range(within))})


async def _until_cut(proxies: list[Proxy], tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait until each network is cut. A conversation that was shorter than the measured one has ended."""
    pairs = list(zip(proxies, tasks, strict=True))
    await until(lambda: all(proxy.swallowed.is_set() or task.done() for proxy, task in pairs))
    assert sum(proxy.swallowed.is_set() for proxy in proxies) > len(proxies) // 2


async def _goes_on(work: Callable[[], Awaitable[Any]], *, within: float = HELD) -> Any:
    """The result of `work` once the ledger takes it."""

    async def once() -> Any:
        try:
            return (await work(),)
        except LedgerUnavailable:
            return None

    return (await until(once, within=within))[0]


async def _commit(ledger: Ledger, state: RunState, epoch: int) -> Committed:
    """A commit on whatever version the run has."""
    loaded = await ledger.load(state.run.uid)
    assert loaded is not None
    run = replace(loaded.run, version=loaded.run.version)
    return await ledger.commit(Commit(run=run, events=(event("workflow.started"),)), epoch=epoch)


async def test_a_gateway_that_is_lost_during_an_upload_holds_its_run_alone(
    ledger: Ledger, ledger_url: str, epoch: int, postgres_server: PostgresServer
) -> None:
    """Cut at each message from `begin` to `commit`, each cut by a gateway of its own, all at once."""
    first = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, first)
    async with through(postgres_server, ledger_url) as (proxy, gateway):
        await gateway.write_checkpoint(session, LARGE, content_type="a/b", now=at(1))
        (messages,) = (list(connection.ends) for connection in proxy.connections)
    points = _points(messages, seed=1, within=6)
    assert len(points) > 25

    held = [await samples.started(ledger, epoch) for _ in points]
    others = [await samples.started(ledger, epoch) for _ in range(OTHERS)]
    agents = await samples.started(ledger, epoch, *AGENTS)
    sessions = [await samples.session_of(ledger, agents, key) for key in AGENTS]
    mine = [await samples.session_of(ledger, state) for state in held]

    async with AsyncExitStack() as stack:
        lost = [
            await stack.enter_async_context(through(postgres_server, ledger_url, swallow_after=point))
            for point in points
        ]

        async def upload(gateway: Ledger, session: Any) -> BaseException | None:
            try:
                await gateway.write_checkpoint(session, LARGE, content_type="a/b", now=at(2))
            except LedgerUnavailable as error:
                return error
            return None

        async with asyncio.TaskGroup() as group:
            uploads = [
                group.create_task(upload(gateway, session))
                for (_, gateway), session in zip(lost, mine, strict=True)
            ]
            await _until_cut([proxy for proxy, _ in lost], uploads)
            # The others, each on its first try: none waits beyond the time of one statement.
            async with Ledger(ledger_url) as gateway:
                await asyncio.gather(
                    *(_commit(ledger, state, epoch) for state in others),
                    *(gateway.heartbeat(session, at(3)) for session in sessions),
                )
                # The same in one batch with all that is held: what is free comes through at its first try.
                async with asyncio.TaskGroup() as both:
                    for session in mine:
                        both.create_task(_goes_on(lambda s=session: gateway.heartbeat(s, at(4))))
                    free = [both.create_task(gateway.heartbeat(session, at(4))) for session in sessions]
                    await asyncio.gather(*free)
            newer = await _goes_on(lambda: ledger.take_epoch("standby"))
            assert newer > epoch
            # What was held is free again, although every connection is still open.
            for state in held:
                await _goes_on(lambda s=state: _commit(ledger, s, newer))
    assert all(isinstance(task.result(), LedgerUnavailable | None) for task in uploads)


async def test_an_operator_that_is_lost_in_a_batch_keeps_no_standby_out(
    ledger: Ledger, ledger_url: str, postgres_server: PostgresServer
) -> None:
    """Commits of several runs in one transaction, cut at each message: shard rows and runs are locked."""
    epoch = await ledger.take_epoch("a")

    async def batch(operator: Ledger, states: list[RunState]) -> list[Any]:
        commits = [
            Commit(run=state.run, events=(event("workflow.started", data={"text": "x" * 2000}),))
            for state in states
        ]
        return await asyncio.gather(
            *(operator.commit(commit, epoch=epoch) for commit in commits), return_exceptions=True
        )

    async with through(postgres_server, ledger_url) as (proxy, operator):
        states = [await samples.started(ledger, epoch) for _ in range(4)]
        assert all(isinstance(result, Committed) for result in await batch(operator, states))
        (messages,) = (list(connection.ends) for connection in proxy.connections)
    points = _points(messages, seed=2, within=4)

    for_each = [[await samples.started(ledger, epoch) for _ in range(4)] for _ in points]
    others = [await samples.started(ledger, epoch, *AGENTS[:1]) for _ in range(OTHERS)]
    sessions = [await samples.session_of(ledger, state, AGENTS[0]) for state in others]
    async with AsyncExitStack() as stack:
        lost = [
            await stack.enter_async_context(through(postgres_server, ledger_url, swallow_after=point))
            for point in points
        ]
        async with asyncio.TaskGroup() as group:
            tries = [
                group.create_task(batch(operator, states))
                for (_, operator), states in zip(lost, for_each, strict=True)
            ]
            await _until_cut([proxy for proxy, _ in lost], tries)
            async with Ledger(ledger_url) as gateway:
                await asyncio.gather(*(gateway.heartbeat(session, at(3)) for session in sessions))
            async with Ledger(ledger_url) as standby:
                newer = await _goes_on(lambda: standby.take_epoch("standby"))
                await asyncio.gather(*(_commit(standby, state, newer) for state in others))
                for state in (state for states in for_each for state in states):
                    await _goes_on(lambda s=state: _commit(standby, s, newer))
    for task in tries:
        assert all(isinstance(result, Committed | LedgerUnavailable) for result in task.result())


async def test_a_relay_that_is_lost_leaves_the_outbox_to_the_next(
    ledger: Ledger, ledger_url: str, epoch: int, postgres_server: PostgresServer
) -> None:
    state = await samples.started(ledger, epoch)
    rows = await ledger.outbox_batch(100)
    assert rows
    ids = [row.id for row in rows]
    async with through(postgres_server, ledger_url) as (proxy, relay):
        await relay.outbox_batch(100)
        await relay.outbox_done([-1])
        (messages,) = (list(connection.ends) for connection in proxy.connections)
    points = _points(messages, seed=3, within=4)
    async with AsyncExitStack() as stack:

        async def relay_once(relay: Ledger) -> None:
            try:
                await relay.outbox_batch(100)
                await relay.outbox_done(ids)
            except LedgerUnavailable:
                pass

        lost = [
            await stack.enter_async_context(through(postgres_server, ledger_url, swallow_after=point))
            for point in points
        ]
        async with asyncio.TaskGroup() as group:
            tries = [group.create_task(relay_once(relay)) for _, relay in lost]
            await _until_cut([proxy for proxy, _ in lost], tries)
            # An operator commits, which writes to the outbox, at its first try.
            await _commit(ledger, state, epoch)
            await _goes_on(lambda: ledger.outbox_done(ids))
    assert not {row.id for row in await ledger.outbox_batch(100)} & set(ids)


@pytest.mark.parametrize("how", ["stops reading", "swallows"])
async def test_a_network_that_stops_and_comes_back(
    ledger: Ledger, ledger_url: str, epoch: int, postgres_server: PostgresServer, how: str
) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    async with through(postgres_server, ledger_url) as (proxy, gateway):
        proxy.delay = 0.01
        await gateway.heartbeat(session, at(1))
        if how == "swallows":
            proxy.swallow_after = proxy.sent + 10
        else:
            proxy.reading.clear()
        with pytest.raises(LedgerUnavailable):
            await gateway.heartbeat(session, at(2))
        with pytest.raises(LedgerUnavailable):
            await gateway.write_checkpoint(session, LARGE, content_type="a/b", now=at(2))
        await _goes_on(lambda: ledger.heartbeat(session, at(3)))
        proxy.swallow_after = None
        proxy.reading.set()
        await _goes_on(lambda: gateway.heartbeat(session, at(4)))


async def test_every_session_has_limits(
    ledger: Ledger, ledger_url: str, epoch: int, postgres_server: PostgresServer
) -> None:
    state = await samples.started(ledger, epoch)
    await ledger.outbox_batch(1)
    wakes = ledger.wakes()
    await anext(wakes)
    session = await samples.session_of(ledger, state)
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield NOISE
        entered.set()
        await leave.wait()
        yield b"end"

    expected = {
        "lock_timeout": "2s",
        "statement_timeout": "9s",
        "client_connection_check_interval": "2s",
        "application_name": "perdure",
    }
    async with ledger.database.acquire() as pooled, ledger.database.snapshot() as snapshot:
        kept = await ledger.outbox.get()
        for connection in (pooled, snapshot, kept, await ledger.writer._connection.get()):
            for name, value in expected.items():
                assert await connection.fetchval("select current_setting($1)", name) == value
            idle = "idle_in_transaction_session_timeout"
            assert await connection.fetchval("select current_setting($1)", idle) == "5s"
    uploading = asyncio.create_task(ledger.write_checkpoint(session, slow(), content_type="a/b", now=at(2)))
    await entered.wait()
    # The upload waits for its client and holds no lock of the run.
    await ledger.heartbeat(session, at(3))
    await _commit(ledger, state, epoch)
    leave.set()
    assert await uploading == 1
    await wakes.aclose()


async def test_the_sockets_of_a_session_notice_a_peer_that_is_gone(
    ledger_url: str, postgres_server: PostgresServer
) -> None:
    async with through(postgres_server, ledger_url) as (_, gateway):
        connection = await gateway.database.connect()
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        await connection.close()


@pytest.mark.parametrize("kind", ["pool", "kept", "writer"])
async def test_a_statement_that_is_given_up_is_cancelled_in_the_server(
    ledger: Ledger, epoch: int, kind: str
) -> None:
    """Neither the lock timeout nor the check of the connection ends it here: both are off."""
    await ledger.database.fetch("create table held (value int)")
    blocker = await ledger.database.connect()
    try:
        await blocker.execute("begin; lock table held")

        async def waiting() -> int:
            row = await ledger.database.fetchrow(
                "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock'"
                " and datname = current_database()"
            )
            return int(row["n"])

        off = "select set_config(name, '0', false) from unnest($1::text[]) name"
        names = ["lock_timeout", "statement_timeout", "client_connection_check_interval"]
        statement = "select count(*) as n from held"

        async def work() -> None:
            if kind == "pool":
                async with ledger.database.acquire() as connection:
                    await connection.fetch(off, names)
                    await connection.fetch(statement)
            elif kind == "kept":
                await ledger.outbox.fetch(off, names)
                await ledger.outbox.fetch(statement)
            else:
                await (await ledger.writer._connection.get()).fetch(off, names)
                await ledger.writer.submit(statement, (), order=(0, "a"))

        task = asyncio.create_task(work())
        assert await until(waiting)
        if kind == "writer":
            await ledger.writer.close(timeout=0)
            with pytest.raises(LedgerUnavailable):
                await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        async def gone() -> bool:
            return not await waiting()

        assert await until(gone, within=5)
    finally:
        await blocker.close()


async def test_a_held_run_delays_no_batch_twice(ledger: Ledger, epoch: int) -> None:
    """The writes of a run that is known to be held leave the way of the others."""
    held = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, held)
    free = await samples.session_of(ledger, await samples.started(ledger, epoch))
    blocker = await ledger.database.connect()
    try:
        await blocker.execute("begin")
        await blocker.execute("set local idle_in_transaction_session_timeout = 0")
        await blocker.fetch(
            "select 1 from perdure.workflow where uid = $1::uuid for update", session.workflow_uid
        )
        stuck = asyncio.gather(*(ledger.heartbeat(session, at(n)) for n in range(3)))
        await ledger.heartbeat(free, at(1))
        assert ledger.writer._held.owns((session.shard, session.workflow_uid))
        # Later writes of both: those of the free run are never in one batch with the other's.
        later = asyncio.create_task(ledger.progress(session, 50, None, at(5)))
        for number in range(20):
            await ledger.heartbeat(free, at(10 + number))
        assert not stuck.done()
        assert not later.done()
        await blocker.execute("rollback")
        await stuck
        await later
    finally:
        await blocker.close()
    await ledger.heartbeat(session, at(40))
    assert not ledger.writer._held.owns((session.shard, session.workflow_uid))


async def test_writes_of_a_run_that_stays_held_fail(
    ledger: Ledger, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.ledger.held_runs.HELD_FOR", 0.5)
    session = await samples.session_of(ledger, await samples.started(ledger, epoch))
    blocker = await ledger.database.connect()
    try:
        await blocker.execute("begin")
        await blocker.execute("set local idle_in_transaction_session_timeout = 0")
        await blocker.fetch(
            "select 1 from perdure.workflow where uid = $1::uuid for update", session.workflow_uid
        )
        with pytest.raises(LedgerUnavailable):
            await ledger.heartbeat(session, at(1))
        await blocker.execute("rollback")
        await ledger.heartbeat(session, at(2))
    finally:
        await blocker.close()
