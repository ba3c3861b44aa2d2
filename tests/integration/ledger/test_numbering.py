"""Events of a run are numbered 1, 2, 3 … for all writers, and leave the outbox in that order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from perdure.domain.records import Commit, RunState, TaskKey
from perdure.ledger import Ledger
from tests.integration.ledger import samples
from tests.integration.ledger.samples import START, at, event
from tests.integration.postgres import PostgresServer

KEYS = tuple(TaskKey("each", index) for index in range(4))


async def test_no_gaps_when_operator_and_agents_write_at_once(
    ledger: Ledger, ledger_url: str, postgres_server: PostgresServer
) -> None:
    deadlocks = postgres_server.log.read_text().count("deadlock detected")
    epoch = await ledger.take_epoch("operator-a")
    states = [await samples.started(ledger, epoch, *KEYS) for _ in range(3)]

    async def decide(state: RunState) -> None:
        run = state.run
        for number in range(15):
            drafts = tuple(event("workflow.started", data={"n": number, "part": part}) for part in range(3))
            done = await ledger.commit(Commit(run=run, events=drafts), epoch=epoch)
            run = replace(run, version=done.version)

    async def work(gateway: Ledger, state: RunState, key: TaskKey) -> list[int]:
        session = await samples.session_of(gateway, state, key)
        sequences = []
        for number in range(15):
            data = f"{key} {number}".encode()
            sequences.append(
                await gateway.write_checkpoint(session, data, content_type="text/plain", now=at(number))
            )
            await gateway.progress(session, number, None, at(number))
        return sequences

    # Two gateways: their batches and the operator's meet in Postgres, not in one process.
    async with Ledger(ledger_url) as one, Ledger(ledger_url) as other:
        jobs = [decide(state) for state in states]
        for state in states:
            jobs += [work(one if index % 2 else other, state, key) for index, key in enumerate(KEYS)]
        results = await asyncio.gather(*jobs)

    # They would be survived, a second later each; the order of locks rules them out.
    assert postgres_server.log.read_text().count("deadlock detected") == deadlocks
    assert results[3:] == [list(range(1, 16))] * 12
    expected = 1 + 15 * 3 + 4 * 15 * 2
    published = [row.event for row in await ledger.outbox_batch(10_000)]
    for state in states:
        events = await ledger.events(state.run.uid)
        assert [entry.sequence for entry in events] == list(range(1, expected + 1))
        assert [entry for entry in published if entry.workflow_uid == state.run.uid] == events
        decided = [entry.data for entry in events if entry.type == "workflow.started"]
        assert decided == [{"n": number, "part": part} for number in range(15) for part in range(3)]
        loaded = await ledger.load(state.run.uid)
        assert loaded is not None
        assert loaded.run.last_sequence == expected
        assert loaded.run.version == 16


async def test_events_are_whole_and_paged(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    data = b"x" * 5000
    await ledger.write_checkpoint(session, data, content_type="text/plain", label="half", now=at(1))
    await ledger.progress(session, 50.5, "reading", at(2))
    await ledger.commit(
        Commit(run=state.run, events=(event("task.succeeded", task="audit-work--1", attempt=1),)), epoch=epoch
    )

    created, checkpointed, progress, succeeded = events = await ledger.events(state.run.uid)
    assert created.id == f"{state.run.uid}/1"
    assert (created.namespace, created.workflow, created.kind) == ("team-a", "audit", "Workflow")
    assert (created.type, created.time, created.task, created.attempt) == (
        "workflow.created",
        START,
        None,
        None,
    )
    assert checkpointed.data == {"sequence": 1, "label": "half", "size": 5000, "recoverable": True}
    assert (checkpointed.type, checkpointed.time) == ("task.checkpointed", at(1))
    assert (checkpointed.task, checkpointed.attempt) == (session.task_name, 1)
    assert (progress.type, progress.data) == ("task.progress", {"percent": 50.5, "message": "reading"})
    assert (succeeded.task, succeeded.attempt, succeeded.data) == ("audit-work--1", 1, {})

    assert await ledger.events(state.run.uid, after=1, limit=2) == events[1:3]
    assert await ledger.events(state.run.uid, after=4) == []


async def test_the_outbox_keeps_what_was_not_published(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    run = state.run
    assert ledger.outbox_written.is_set()
    for number in range(4):
        done = await ledger.commit(Commit(run=run, events=(event(f"workflow.e{number}"),)), epoch=epoch)
        run = replace(run, version=done.version)
    first = await ledger.outbox_batch(2)
    assert [row.event.sequence for row in first] == [1, 2]
    assert first[0].event == (await ledger.events(run.uid))[0]
    assert await ledger.outbox_batch(2) == first
    await ledger.outbox_done([row.id for row in first])
    assert [row.event.sequence for row in await ledger.outbox_batch(10)] == [3, 4, 5]
