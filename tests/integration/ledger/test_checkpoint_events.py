"""Checkpoints without an event of their own, and the event that stands for them."""

from __future__ import annotations

import pytest

from perdure.domain.records import Superseded
from perdure.ledger import Ledger
from tests.integration.ledger import samples
from tests.integration.ledger.samples import at


async def test_event_numbers_have_no_gap_when_checkpoints_have_no_event(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    before = await ledger.events(state.run.uid)
    for number, announced in ((1, True), (2, False), (3, False)):
        written = await ledger.write_checkpoint(
            session, b"x" * number, content_type="text/plain", announced=announced, now=at(number)
        )
        assert written == number
    assert [info.sequence for info in await ledger.checkpoints(session, limit=10)] == [3, 2, 1]
    await ledger.announce_checkpoint(session, at(4))
    events = await ledger.events(state.run.uid)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    added = events[len(before) :]
    assert [(event.type, event.data["sequence"], event.data["size"]) for event in added] == [
        ("task.checkpointed", 1, 1),
        ("task.checkpointed", 3, 3),
    ]
    published = await ledger.outbox_batch(100)
    assert [row.event.sequence for row in published] == [event.sequence for event in events]


async def test_a_large_checkpoint_may_have_no_event_as_well(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    before = await ledger.events(state.run.uid)
    data = bytes(2_000_000)
    await ledger.write_checkpoint(session, data, content_type="text/plain", announced=False, now=at(1))
    assert await ledger.events(state.run.uid) == before
    found = await ledger.latest_checkpoint(session)
    assert found is not None and found.data == data


async def test_an_attempt_that_ended_announces_nothing(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    await ledger.write_checkpoint(session, b"x", content_type="text/plain", announced=False, now=at(1))
    await samples.superseded(ledger, state, epoch)
    before = await ledger.events(state.run.uid)
    with pytest.raises(Superseded):
        await ledger.announce_checkpoint(session, at(2))
    assert await ledger.events(state.run.uid) == before
