"""The inbox of a run: what is sent is kept, seen by the next decision, and consumed once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure.domain.payloads import payload_of, value_of
from perdure.domain.phases import Phase
from perdure.domain.records import Commit, Deposed, RunState, Signal, TaskKey, VersionConflict
from perdure.ledger import Ledger, rows
from perdure.ledger.queries import SQL
from perdure.ledger.types import (
    SIGNAL_PAYLOAD,
    SIGNAL_TEXT,
    SIGNALS_UNREAD,
    SIGNALS_UNREAD_BYTES,
    InboxFull,
    RunEnded,
    SignalRefused,
    SignalTooLarge,
    UnknownRun,
)
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, at, signal
from tests.integration.ledger.test_fences import blocked
from tests.support.waiting import until

LATER = TaskKey("later", 7)
RUN = TaskKey("")


async def inbox(ledger: Ledger, state: RunState) -> dict[TaskKey, tuple[Signal, ...]]:
    return dict((await ledger.updates(state.run.uid, since=None)).signals)


async def consume(ledger: Ledger, state: RunState, *ids: str, epoch: int, version: int, **run: Any) -> int:
    changed = replace(state.run, version=version, **run)
    return (await ledger.commit(Commit(run=changed, consumed=ids), epoch=epoch)).version


async def test_signals_come_back_as_they_were_sent_and_in_order(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    other = await samples.started(ledger, epoch)
    payload = {"z": [1, 2.50, None], "a": "ä\0\ud800"}
    sent = [
        signal("b", payload, sender="system:serviceaccount:team-a:bot"),
        signal("a", key=LATER, name="custom.event", at=at(1)),
        signal("c", "late", key=RUN),
        # Its sender's clock is behind.
        signal("d", 0, at=datetime(2001, 1, 1, tzinfo=UTC)),
    ]
    for one in sent:
        assert await ledger.send_signal(state.run.uid, one)
    await ledger.send_signal(other.run.uid, signal("b", "of another run"))

    updates = await ledger.updates(state.run.uid, since=None)
    kept = replace(sent[0], payload={"z": [1, 2.5, None], "a": "ä\ufffd\ufffd"})
    assert updates.signals == {KEY: (kept, sent[3]), LATER: (sent[1],), RUN: (sent[2],)}
    assert list(updates.signals[KEY][0].payload) == ["z", "a"]
    assert updates.version == state.run.version + 4
    # A signal is no event: the operator writes that when it has decided.
    assert len(await ledger.events(state.run.uid)) == 1


async def test_a_repeated_signal_is_acknowledged_and_changes_nothing(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    uid = state.run.uid
    assert await ledger.send_signal(uid, signal("one", 1))
    before = await ledger.updates(uid, since=None)
    assert not await ledger.send_signal(uid, signal("one", 1))
    assert not await ledger.send_signal(uid, signal("one", "changed", key=LATER))
    assert await ledger.updates(uid, since=None) == before

    version = await consume(
        ledger, state, "one", epoch=epoch, version=before.version, phase=Phase.SUCCEEDED, finished_at=at(4)
    )
    # The first answer may have been lost: the sender learns that the signal was taken, whatever came of it.
    assert not await ledger.send_signal(uid, signal("one", 1))
    assert await ledger.updates(uid, since=None) == replace(before, version=version, signals={})


async def test_senders_of_one_id_at_once_write_one_signal(
    ledger: Ledger, ledger_url: str, epoch: int
) -> None:
    state = await samples.started(ledger, epoch)
    async with Ledger(ledger_url) as other:
        ways = [ledger, other]
        sent = await asyncio.gather(
            *(ways[n % 2].send_signal(state.run.uid, signal("same", n)) for n in range(20))
        )
    assert sent.count(True) == 1
    updates = await ledger.updates(state.run.uid, since=None)
    assert updates.version == state.run.version + 1
    assert len(updates.signals[KEY]) == 1


async def test_many_senders_get_an_order_each(ledger: Ledger, ledger_url: str, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    async with Ledger(ledger_url) as other:
        ways = [ledger, other]
        await asyncio.gather(*(ways[n % 2].send_signal(state.run.uid, signal(str(n), n)) for n in range(50)))
    found = await ledger.database.fetch(
        "select id, version from perdure.signal where workflow_uid = $1 order by version", state.run.uid
    )
    assert [row["version"] for row in found] == list(range(state.run.version + 1, state.run.version + 51))
    assert [one.id for one in (await inbox(ledger, state))[KEY]] == [row["id"] for row in found]


async def test_a_decision_that_has_not_seen_a_signal_is_refused(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    await ledger.send_signal(state.run.uid, signal("one"))
    with pytest.raises(VersionConflict):
        await ledger.commit(Commit(run=state.run), epoch=epoch)
    with pytest.raises(VersionConflict):
        await consume(ledger, state, "one", epoch=epoch, version=state.run.version)
    assert len((await inbox(ledger, state))[KEY]) == 1
    assert await consume(ledger, state, "one", epoch=epoch, version=state.run.version + 1) == 3
    assert await inbox(ledger, state) == {}


async def test_a_decision_that_waited_for_a_signal_is_refused(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    gateway = await ledger.database.connect()
    try:
        transaction = gateway.transaction()
        await transaction.start()
        row = await gateway.fetchrow(
            SQL["send_signal"], state.run.uid, "one", "work", -1, "answer", b"1", "ada", at(1), 9, 9
        )
        assert row["sent"]
        late = asyncio.create_task(ledger.commit(Commit(run=state.run), epoch=epoch))
        await until(lambda: blocked(ledger))
        await transaction.commit()
        with pytest.raises(VersionConflict):
            await late
    finally:
        gateway.terminate()


@pytest.mark.parametrize("repeated", [False, True])
async def test_a_signal_that_waited_for_the_end_of_its_run(
    ledger: Ledger, epoch: int, repeated: bool
) -> None:
    """Refused; but one whose first sending was committed during the wait is acknowledged."""
    state = await samples.started(ledger, epoch)
    ended = replace(state.run, phase=Phase.SUCCEEDED, finished_at=at(9))
    operator = await ledger.database.connect()
    try:
        transaction = operator.transaction()
        await transaction.start()
        if repeated:
            first = state.run.uid, "one", "work", -1, "answer", b"1", "ada", at(1), 9, 9
            assert (await operator.fetchrow(SQL["send_signal"], *first))["sent"]
            ended = replace(ended, version=ended.version + 1)
        await operator.fetchrow(SQL["commit"], *rows.commit_arguments(Commit(run=ended), epoch))
        # Its snapshot shows neither.
        late = asyncio.create_task(ledger.send_signal(state.run.uid, signal("one", 1)))
        await until(lambda: blocked(ledger))
        await transaction.commit()
        if repeated:
            assert not await late
        else:
            with pytest.raises(RunEnded, match="has ended: Succeeded"):
                await late
    finally:
        operator.terminate()
    assert len(await inbox(ledger, state)) == repeated


async def test_a_decision_consumes_what_it_names_and_nothing_else(ledger: Ledger, epoch: int) -> None:
    state, other = await samples.started(ledger, epoch), await samples.started(ledger, epoch)
    for id in ("one", "two", "three"):
        await ledger.send_signal(state.run.uid, signal(id))
        await ledger.send_signal(other.run.uid, signal(id))
    version = await consume(ledger, state, "three", "one", "none", epoch=epoch, version=4)
    assert await inbox(ledger, state) == {KEY: (signal("two"),)}
    assert len((await inbox(ledger, other))[KEY]) == 3
    # What is consumed stays consumed by the first that consumed it.
    await consume(ledger, state, "one", "two", epoch=epoch, version=version)
    found = await ledger.database.fetch(
        "select id, consumed_version from perdure.signal where workflow_uid = $1", state.run.uid
    )
    assert {row["id"]: row["consumed_version"] for row in found} == {"one": 5, "two": 6, "three": 5}


async def test_a_deposed_operator_consumes_nothing(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    await ledger.send_signal(state.run.uid, signal("one"))
    await ledger.take_epoch("operator-b")
    with pytest.raises(Deposed):
        await consume(ledger, state, "one", epoch=epoch, version=2)
    assert await inbox(ledger, state) == {KEY: (signal("one"),)}


async def test_signals_and_results_go_into_one_commit(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    await ledger.send_signal(state.run.uid, signal("one"))
    task = replace(
        state.tasks[KEY],
        phase=Phase.SUCCEEDED,
        output=payload_of(7),
        cache_key="k",
        cache_until=at(99),
        finished_at=at(5),
    )
    decision = Commit(run=replace(state.run, version=2), tasks=(task,), consumed=("one",))
    await ledger.commit(decision, epoch=epoch)
    assert await inbox(ledger, state) == {}
    assert value_of((await ledger.cached("team-a", ["k"], at(6)))["k"].output) == 7


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PAUSED])
async def test_runs_that_wait_take_signals(ledger: Ledger, epoch: int, phase: Phase) -> None:
    state = await samples.started(ledger, epoch, phase=phase)
    assert await ledger.send_signal(state.run.uid, signal("one"))


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED])
async def test_runs_that_ended_take_none(ledger: Ledger, epoch: int, phase: Phase) -> None:
    state = await samples.started(ledger, epoch, phase=phase, finished_at=at(1))
    with pytest.raises(RunEnded):
        await ledger.send_signal(state.run.uid, signal("one"))
    updates = await ledger.updates(state.run.uid, since=None)
    assert (updates.version, updates.signals) == (state.run.version, {})


async def test_unknown_runs_take_none(ledger: Ledger, epoch: int) -> None:
    for uid in ("a2c1d7d4-0000-4000-8000-000000000000", "none", ""):
        with pytest.raises(UnknownRun):
            await ledger.send_signal(uid, signal("one"))


async def test_the_limit_of_a_payload(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    fits = "ä" * (SIGNAL_PAYLOAD // 2 - 1)
    assert await ledger.send_signal(state.run.uid, signal("fits", fits))
    with pytest.raises(SignalTooLarge, match=f"{SIGNAL_PAYLOAD + 1} bytes, at most {SIGNAL_PAYLOAD}"):
        await ledger.send_signal(state.run.uid, signal("too long", fits + "x"))
    assert [one.id for one in (await inbox(ledger, state))[KEY]] == ["fits"]
    assert issubclass(SignalTooLarge, SignalRefused)


async def test_the_limit_of_an_inbox(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    uid = state.run.uid
    await ledger.send_signal(uid, signal("0"))
    await ledger.database.fetch(
        "insert into perdure.signal select workflow_uid, n::text, step, index, name, payload, sender, at, 2"
        " from perdure.signal, generate_series(1, $1) as n",
        SIGNALS_UNREAD - 1,
    )
    with pytest.raises(InboxFull):
        await ledger.send_signal(uid, signal("more"))
    assert not await ledger.send_signal(uid, signal("7"))
    await consume(ledger, state, "7", epoch=epoch, version=2)
    assert await ledger.send_signal(uid, signal("more"))


async def test_the_limit_of_an_inbox_in_bytes(ledger: Ledger, epoch: int) -> None:
    """An operator reads all unread signals in one pass: 1,000 of the largest would hold up every run."""
    state = await samples.started(ledger, epoch)
    uid, largest = state.run.uid, "x" * (SIGNAL_PAYLOAD - 2)
    fit = SIGNALS_UNREAD_BYTES // SIGNAL_PAYLOAD
    for number in range(fit):
        assert await ledger.send_signal(uid, signal(str(number), largest))
    with pytest.raises(InboxFull, match=f"{SIGNALS_UNREAD_BYTES} bytes"):
        await ledger.send_signal(uid, signal("more", 1))
    assert not await ledger.send_signal(uid, signal("0", largest))
    await consume(ledger, state, "0", epoch=epoch, version=1 + fit)
    assert await ledger.send_signal(uid, signal("more", 1))


@pytest.mark.parametrize("field", ["id", "step", "name", "sender"])
async def test_the_limit_of_a_text(ledger: Ledger, epoch: int, field: str) -> None:
    state = await samples.started(ledger, epoch)

    def with_text(value: str) -> Signal:
        if field == "step":
            return signal("one", key=TaskKey(value))
        return replace(signal("one"), **{field: value})

    # Postgres would refuse an id of this length in an index, and the zero byte.
    with pytest.raises(SignalTooLarge, match=f"the {field} of the signal has {SIGNAL_TEXT + 1} bytes"):
        await ledger.send_signal(state.run.uid, with_text("x" * (SIGNAL_TEXT + 1)))
    assert await ledger.send_signal(state.run.uid, with_text("ä" * (SIGNAL_TEXT // 2 - 2) + "\0"))
    ((found,),) = (await inbox(ledger, state)).values()
    assert "\ufffd" in str(found)


async def test_signals_go_with_their_run(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    await ledger.send_signal(state.run.uid, signal("one"))
    await consume(ledger, state, epoch=epoch, version=2, phase=Phase.FAILED, finished_at=at(1))
    await ledger.forget([state.run.uid], epoch=epoch)
    assert await ledger.database.fetch("select from perdure.signal") == []
    with pytest.raises(UnknownRun):
        await ledger.send_signal(state.run.uid, signal("one"))


async def test_a_signal_is_committed_before_it_is_acknowledged(
    ledger: Ledger, ledger_url: str, epoch: int
) -> None:
    """The death of the sending process loses no acknowledged signal: others see it at once."""
    state = await samples.started(ledger, epoch)
    async with Ledger(ledger_url) as sender:
        await sender.send_signal(state.run.uid, signal("one"))
        assert await inbox(ledger, state) == {KEY: (signal("one"),)}


async def test_unread_signals_are_found_by_their_index(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    async with ledger.database.acquire() as connection, connection.transaction():
        await connection.execute("set local enable_seqscan = off")
        plans = {
            "updates": (state.run.uid, None, 9),
            "send_signal": (state.run.uid, "one", "", -1, "", b"1", "", at(1), 9, 9),
        }
        for name, arguments in plans.items():
            found = await connection.fetch("explain " + SQL[name], *arguments)
            assert "signal_unread" in "\n".join(row[0] for row in found), name
