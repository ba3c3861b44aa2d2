"""A ledger with runs that have events, a running relay, and the plain messages of the stream."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from nats.aio.client import Client

from perdure.bus.cloudevents import decode
from perdure.bus.connection import Bus
from perdure.bus.namespace_rates import NamespaceRates
from perdure.bus.relay import Relay
from perdure.bus.stream import STREAM
from perdure.bus.subjects import subject
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase
from perdure.domain.records import (
    Commit,
    Event,
    LedgerUnavailable,
    PendingEvent,
    RunKind,
    RunRecord,
)
from perdure.ledger import Ledger
from tests.integration.nats import NatsServer

#: Seconds for anything to come true; only a defect needs them.
DEADLINE = 30.0


class Writer:
    """Commits events as the operator does, and keeps at it while the ledger is away."""

    def __init__(self, ledger: Ledger, epoch: int) -> None:
        self._ledger = ledger
        self._epoch = epoch
        self.runs: dict[str, RunRecord] = {}

    async def new_run(
        self, name: str | None = None, *, kind: RunKind = "Workflow", namespace: str = "team-a"
    ) -> str:
        """The uid of a new run without events."""
        uid = str(uuid.uuid4())
        run = RunRecord(
            uid=uid,
            kind=kind,
            namespace=namespace,
            name=name or f"run-{uid[:8]}",
            generation=1,
            shard=shard_of(uid),
            phase=Phase.RUNNING,
            spec={"steps": []},
            created_at=datetime.now(UTC),
        )
        await self._commit(run)
        return uid

    async def add(self, uid: str, *types: str) -> None:
        """Commit events of these types, numbered by the ledger."""
        now = datetime.now(UTC)
        drafts = [
            PendingEvent(
                type=type_, time=now, data={"message": f"{type_} ü", "percent": 12.5}, task="work-abcde"
            )
            for type_ in types
        ]
        await self._commit(self.runs[uid], drafts)

    async def finish(self, uid: str, type_: str = "workflow.succeeded") -> None:
        """Commit the run's end."""
        run = replace(self.runs[uid], phase=Phase.SUCCEEDED, finished_at=datetime.now(UTC))
        await self._commit(run, [PendingEvent(type=type_, time=datetime.now(UTC))])

    async def _commit(self, run: RunRecord, events: Sequence[PendingEvent] = ()) -> None:
        committed = await self._ledger.commit(Commit(run=run, events=tuple(events)), epoch=self._epoch)
        self.runs[run.uid] = replace(run, version=committed.version, last_sequence=committed.last_sequence)

    async def history(self) -> dict[str, list[Event]]:
        """All events of all runs that have any, by run, as the ledger has them."""
        histories = {uid: await self._ledger.events(uid, limit=100_000) for uid in self.runs}
        return {uid: events for uid, events in histories.items() if events}

    async def published(self) -> bool:
        """True once the outbox is empty."""
        try:
            return not await self._ledger.outbox_batch(1)
        except LedgerUnavailable:
            return False


async def messages(server: NatsServer) -> list[tuple[str, str, Event]]:
    """What the stream holds, in its order: (message id, subject, event), read one by one by place."""
    client = Client()
    await client.connect(server.url, allow_reconnect=False)
    try:
        jetstream = client.jetstream()
        state = (await jetstream.stream_info(STREAM)).state
        found = []
        for place in range(state.first_seq, state.last_seq + 1):
            message = await jetstream.get_msg(STREAM, place)
            assert message.data is not None and message.subject is not None and message.headers is not None
            found.append((message.headers["Nats-Msg-Id"], message.subject, decode(message.data)))
        return found
    finally:
        await client.close()


async def assert_stream_equals_ledger(server: NatsServer, writer: Writer) -> None:
    """Each event of the ledger is in the stream once, under its id and subject, in the order of its run."""
    found = await messages(server)
    by_run: dict[str, list[Event]] = {}
    for message_id, where, event in found:
        assert message_id == event.id
        assert where == subject(event.namespace, event.workflow, event.type)
        by_run.setdefault(event.workflow_uid, []).append(event)
    expected = await writer.history()
    assert {uid: [event.sequence for event in events] for uid, events in by_run.items()} == {
        uid: list(range(1, len(events) + 1)) for uid, events in expected.items()
    }
    assert by_run == expected


@contextlib.asynccontextmanager
async def relaying(
    ledger: Ledger, server: NatsServer, *, rates: NamespaceRates | None = None
) -> AsyncIterator[Relay]:
    """A running relay on a connection of its own; stopped in order at the end."""
    async with Bus(server.url, name="relay") as bus:
        relay, stop = Relay(ledger, bus, rates=rates), asyncio.Event()
        task = asyncio.create_task(relay.run(stop=stop, wake=ledger.outbox_written))
        try:
            yield relay
        finally:
            stop.set()
            async with asyncio.timeout(DEADLINE):
                await task


async def stream_is_filled(server: NatsServer) -> bool:
    """True once the stream is there and marked as filled."""
    client = Client()
    try:
        await client.connect(server.url, allow_reconnect=False, error_cb=_ignore)
        info = orjson.loads((await client.request(f"$JS.API.STREAM.INFO.{STREAM}", timeout=5)).data)
        return bool(info["config"].get("metadata", {}).get("perdure.dev/filled") == info["created"])
    except Exception:
        return False
    finally:
        await client.close()


async def _ignore(error: Exception) -> None:
    """Errors of a connection that is only tried."""


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with Ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
async def writer(ledger: Ledger) -> Writer:
    return Writer(ledger, await ledger.take_epoch("operator-a"))


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connected bus."""
    async with Bus(nats_server.url, name="test") as opened:
        await opened.connect(timeout=DEADLINE)
        yield opened
