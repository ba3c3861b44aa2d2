"""Which checkpoint is current, which are kept, and what never becomes one."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.domain.records import LedgerUnavailable, Superseded
from perdure.ledger import AgentSession, CorruptCheckpoint, Ledger, write_item
from perdure.ledger.checkpoint_bytes import PIECE, WHOLE
from perdure.ledger.types import Overtaken, WrongChecksum
from tests.integration.ledger import samples
from tests.integration.ledger.samples import START, at
from tests.support.waiting import until

NOISE = random.Random(3).randbytes(3 * PIECE)
#: One piece more than what is kept whole.
LARGE = NOISE + b"end"
assert len(LARGE) > WHOLE


@pytest.fixture
async def session(ledger: Ledger, epoch: int) -> AgentSession:
    return await samples.session_of(ledger, await samples.started(ledger, epoch))


async def save(ledger: Ledger, session: AgentSession, data: Any = b"x", **about: Any) -> int:
    return await ledger.write_checkpoint(
        session, data, **{"content_type": "text/plain", "now": START, **about}
    )


async def kept(ledger: Ledger) -> list[int]:
    found = await ledger.database.fetch("select sequence from perdure.checkpoint order by 1")
    return [row["sequence"] for row in found]


async def pieces(ledger: Ledger) -> int:
    row = await ledger.database.fetchrow("select count(*) as found from perdure.checkpoint_piece")
    return int(row["found"])


async def dribble(data: bytes, size: int = 40_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_the_list_is_newest_first_and_bounded(ledger: Ledger, session: AgentSession) -> None:
    for number in range(1, 6):
        label = "even" if number % 2 == 0 else None
        await save(ledger, session, bytes(number), label=label, recoverable=number != 5, now=at(number))
    found = await ledger.checkpoints(session, limit=3)
    assert [(info.sequence, info.size, info.label, info.recoverable) for info in found] == [
        (5, 5, None, False),
        (4, 4, "even", True),
        (3, 3, None, True),
    ]
    assert (found[1].created_at, found[1].attempt, found[1].content_type) == (at(4), 1, "text/plain")
    assert found[1].sha256 == hashlib.sha256(bytes(4)).hexdigest()
    assert [info.sequence for info in await ledger.checkpoints(session, before=3, limit=9)] == [2, 1]
    assert [info.sequence for info in await ledger.checkpoints(session, label="even", limit=9)] == [4, 2]
    assert await ledger.checkpoints(session, label="odd", limit=9) == []
    assert len(await ledger.checkpoints(session, before=2**80, limit=9)) == 5


async def test_by_label_the_newest_recoverable_one(ledger: Ledger, session: AgentSession) -> None:
    for number, (label, recoverable) in enumerate(
        [("a", True), ("b", True), ("a", True), ("a", False), (None, True)], start=1
    ):
        await save(ledger, session, bytes(number), label=label, recoverable=recoverable)
    for label, sequence in (("a", 3), ("b", 2), (None, 5)):
        found = await ledger.open_latest(session, label)
        assert found is not None
        assert found.info.sequence == sequence
    assert await ledger.open_latest(session, "c") is None
    for sequence in (0, -1, 6, 2**63, 2**80):
        assert await ledger.open_checkpoint(session, sequence) is None


async def test_no_attempt_goes_on_from_an_unrecoverable_checkpoint(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch, spec={"retention": {"checkpointsPerTask": 2}})
    session = await samples.session_of(ledger, state)
    assert await save(ledger, session, b"no", recoverable=False) == 1
    assert await ledger.latest_checkpoint(session) is None
    assert (await samples.session_of(ledger, state)).checkpoint_sequence is None

    await save(ledger, session, b"first")
    await save(ledger, session, b"good", label="here", now=at(3))
    for number in range(4, 9):
        assert await save(ledger, session, b"bad", recoverable=False, now=at(number)) == number
    # As many as are kept are newer: the one to go on from stays all the same.
    assert await kept(ledger) == [3, 7, 8]
    latest = await ledger.latest_checkpoint(session)
    assert latest is not None
    assert (latest.sequence, latest.data) == (3, b"good")
    renewed = await samples.session_of(ledger, state)
    assert (renewed.checkpoint_sequence, renewed.checkpoint_label, renewed.checkpoint_at) == (
        3,
        "here",
        at(3),
    )
    (vitals,) = (await ledger.updates(state.run.uid, since=None)).vitals
    assert (vitals.checkpoint_sequence, vitals.checkpoint_label, vitals.checkpoint_at) == (3, "here", at(3))
    assert vitals.changed_at == at(8)
    by_number = await ledger.checkpoint(session, 8)
    assert by_number is not None
    assert (by_number.data, by_number.recoverable) == (b"bad", False)
    # The next one to go on from takes its place.
    await save(ledger, session, b"better")
    assert await kept(ledger) == [8, 9]
    events = await ledger.events(state.run.uid)
    assert [event.data["recoverable"] for event in events[1:]] == [False, True, True] + [False] * 5 + [True]


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, WHOLE, WHOLE + 1, len(LARGE)])
@pytest.mark.parametrize("content", ["noise", "zeros"])
async def test_pieces_come_back_as_they_were_sent(
    ledger: Ledger, session: AgentSession, size: int, content: str
) -> None:
    data = LARGE[:size] if content == "noise" else bytes(size)
    digest = hashlib.sha256(data)
    await save(ledger, session, b"before")
    assert await save(ledger, session, dribble(data), sha256=digest.digest()) == 2
    found = await ledger.open_checkpoint(session, 2)
    assert found is not None
    assert (found.info.size, found.info.sha256) == (size, digest.hexdigest())
    # As often as it is asked for, and never more than a piece at a time.
    for _ in range(2):
        sent = [piece async for piece in found.pieces()]
        assert b"".join(sent) == data
        assert all(len(piece) <= PIECE for piece in sent)


class ConnectionCut(Exception):
    pass


async def cut_off(data: bytes) -> AsyncIterator[bytes]:
    async for piece in dribble(data):
        yield piece
    raise ConnectionCut


@pytest.mark.parametrize("fault", ["cut", "checksum", "cancelled"])
async def test_a_torn_upload_leaves_the_one_before(ledger: Ledger, session: AgentSession, fault: str) -> None:
    await save(ledger, session, b"before")
    before = await ledger.events(session.workflow_uid)
    if fault == "cut":
        with pytest.raises(ConnectionCut):
            await save(ledger, session, cut_off(LARGE))
    elif fault == "checksum":
        for data in (b"small", LARGE, dribble(LARGE)):
            with pytest.raises(WrongChecksum, match="what arrived has the SHA-256"):
                await save(ledger, session, data, sha256=hashlib.sha256(b"other").digest(), order=7)
    else:
        sent, never = asyncio.Event(), asyncio.Event()

        async def stalls() -> AsyncIterator[bytes]:
            async for piece in dribble(LARGE):
                yield piece
            sent.set()
            await never.wait()

        saving = asyncio.create_task(save(ledger, session, stalls()))
        await sent.wait()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
    latest = await ledger.latest_checkpoint(session)
    assert latest is not None
    assert latest.data == b"before"
    assert await ledger.events(session.workflow_uid) == before
    assert await pieces(ledger) == 0
    # Its order was not taken, and the connection is sound.
    assert await save(ledger, session, dribble(LARGE), order=7) == 2


async def test_an_upload_of_an_attempt_that_is_over_is_not_taken_in(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    await samples.superseded(ledger, state, epoch)
    taken = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal taken
        async for piece in dribble(LARGE):
            taken += 1
            yield piece

    with pytest.raises(Superseded):
        await save(ledger, session, counted())
    assert taken == 0


async def test_an_attempt_that_ends_during_an_upload(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    await save(ledger, session, b"before")

    async def slow() -> AsyncIterator[bytes]:
        async for piece in dribble(LARGE):
            yield piece
        await samples.superseded(ledger, state, epoch)

    with pytest.raises(Superseded):
        await save(ledger, session, slow())
    assert await kept(ledger) == [1]
    assert await pieces(ledger) == 0


async def test_pieces_go_with_their_checkpoint(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch, spec={"retention": {"checkpointsPerTask": 1}})
    session = await samples.session_of(ledger, state)
    for number in (1, 2, 3):
        assert await save(ledger, session, LARGE) == number
        assert await pieces(ledger) == 4
    await ledger.database.fetch("update perdure.workflow set phase = 'Succeeded'")
    await ledger.forget([state.run.uid], epoch=epoch)
    assert (await kept(ledger), await pieces(ledger)) == ([], 0)


DAMAGES = {
    "changed": "update perdure.checkpoint_piece set data = overlay(data placing 'x' from 9), packed = packed"
    " where number = 1",
    "lost": "delete from perdure.checkpoint_piece where number = 3",
    "too long": "update perdure.checkpoint_piece set data = data || 'x' where number = 3",
    "not packed": "update perdure.checkpoint_piece set packed = true",
    "checksum": "update perdure.checkpoint set sha256 = sha256('x') where sequence = 2",
    "size": "update perdure.checkpoint set size = size + 1 where sequence = 2",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_pieces_are_noticed_before_the_first_is_handed_out(
    ledger: Ledger, session: AgentSession, damage: str
) -> None:
    await save(ledger, session, b"older")
    await save(ledger, session, LARGE)
    sound = await ledger.open_latest(session)
    assert sound is not None
    await ledger.database.fetch(DAMAGES[damage])
    with pytest.raises(CorruptCheckpoint, match="checkpoint 2: ") as caught:
        await ledger.open_latest(session)
    assert caught.value.sequence == 2
    older = await ledger.checkpoint(session, 1)
    assert older is not None
    assert older.data == b"older"
    if damage not in ("checksum", "size"):
        # What changes under a reader does not end well either.
        with pytest.raises(CorruptCheckpoint):
            async for _ in sound.pieces():
                pass


async def test_one_that_is_pushed_out_while_it_is_read_is_gone_and_not_damaged(
    ledger: Ledger, session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(ledger, session, LARGE)
    fetchrow = ledger.database.fetchrow_slow

    async def pushing(statement: str, *arguments: Any, **options: Any) -> Any:
        row = await fetchrow(statement, *arguments, **options)
        if "data" in (row or {}) and "upload" in row:
            monkeypatch.undo()
            for _ in range(10):
                await save(ledger, session, LARGE)
        return row

    monkeypatch.setattr(ledger.database, "fetchrow_slow", pushing)
    assert await ledger.open_checkpoint(session, 1) is None
    monkeypatch.setattr(ledger.database, "fetchrow_slow", pushing)
    latest = await ledger.open_latest(session)
    assert latest is not None
    assert latest.info.sequence == 21


@pytest.mark.parametrize("data", [b"small", NOISE[:400_000], LARGE], ids=["small", "medium", "large"])
async def test_a_retried_upload_is_the_same_checkpoint(
    ledger: Ledger, session: AgentSession, data: bytes
) -> None:
    assert await save(ledger, session, data, order=5) == 1
    before = await ledger.events(session.workflow_uid)
    for _ in range(2):
        assert await save(ledger, session, data, order=5) == 1
    assert await save(ledger, session, data, order=6) == 2
    # Late, but kept: it is acknowledged again, and changes nothing.
    assert await save(ledger, session, data, order=5) == 1
    assert await kept(ledger) == [1, 2]
    assert len(await ledger.events(session.workflow_uid)) == len(before) + 1
    assert await pieces(ledger) == (8 if data is LARGE else 0)


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
async def test_what_was_sent_before_and_arrives_after_does_not_count(
    ledger: Ledger, session: AgentSession, data: bytes
) -> None:
    assert await save(ledger, session, b"newer", order=2) == 1
    before = await ledger.events(session.workflow_uid)
    for late in ({"order": 1}, {"order": 2}):
        with pytest.raises(Overtaken, match="has saved a newer"):
            await save(ledger, session, data, **late)
    latest = await ledger.latest_checkpoint(session)
    assert latest is not None
    assert latest.data == b"newer"
    assert await ledger.events(session.workflow_uid) == before
    # Without an order all is as it ever was, and the order remembered.
    assert await save(ledger, session, b"unordered") == 2
    with pytest.raises(Overtaken):
        await save(ledger, session, data, order=1)
    assert await save(ledger, session, data, order=2**63 - 1) == 3


async def test_an_attempt_counts_its_orders_by_itself(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    old = await samples.session_of(ledger, state)
    assert await save(ledger, old, b"x", order=100) == 1
    await samples.superseded(ledger, state, epoch)
    new = await ledger.attempt_for_pod("team-a", f"{state.attempts[samples.KEY].pod_uid}-next")
    assert new is not None
    assert await save(ledger, new, b"x", order=1) == 2
    # The old one's retry is not acknowledged as the new one's, nor as its own.
    with pytest.raises(Superseded):
        await save(ledger, old, b"x", order=100)
    assert await save(ledger, new, b"y", order=2) == 3
    assert await kept(ledger) == [1, 2, 3]


async def blocked(ledger: Ledger, count: int) -> bool:
    row = await ledger.database.fetchrow("select count(*) as n from pg_locks where not granted")
    return int(row["n"]) >= count


@pytest.mark.parametrize("first", ["older", "newer", "same"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
async def test_two_gateways_with_one_agents_checkpoints_at_once(
    ledger: Ledger, ledger_url: str, session: AgentSession, first: str, large: bool
) -> None:
    """Both wait for the run; the later one's snapshot does not show what the earlier one wrote."""
    older = LARGE if large else b"older"
    newer = older if first == "same" else b"newer"
    orders = {"older": 1, "newer": 2}
    if first == "same":
        orders = {"older": 1, "newer": 1}
    writes = {
        "older": lambda door: save(door, session, older, order=orders["older"]),
        "newer": lambda door: save(door, session, newer, order=orders["newer"]),
    }
    sequence = ["newer", "older"] if first == "newer" else ["older", "newer"]
    holder = await ledger.database.connect()
    async with Ledger(ledger_url) as one, Ledger(ledger_url) as other:
        try:
            transaction = holder.transaction()
            await transaction.start()
            await holder.execute("select 1 from perdure.workflow for no key update")
            leading = asyncio.create_task(writes[sequence[0]](one))
            await until(lambda: blocked(ledger, 1))
            following = asyncio.create_task(writes[sequence[1]](other))
            await until(lambda: blocked(ledger, 2))
            await transaction.commit()
        finally:
            holder.terminate()
        assert await leading == 1
        if first == "same":
            assert await following == 1
        elif first == "newer":
            with pytest.raises(Overtaken):
                await following
        else:
            assert await following == 2
    latest = await ledger.latest_checkpoint(session)
    assert latest is not None
    assert latest.data == newer
    assert len(await kept(ledger)) == (2 if first == "older" else 1)


async def test_a_commit_whose_answer_is_lost_is_acknowledged_by_the_retry(
    ledger: Ledger, session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = write_item._send

    async def lost(*arguments: Any) -> Any:
        await send(*arguments)
        raise LedgerUnavailable("connection reset")

    monkeypatch.setattr(write_item, "_send", lost)
    with pytest.raises(LedgerUnavailable):
        await save(ledger, session, b"x", order=1)
    monkeypatch.undo()
    assert await save(ledger, session, b"x", order=1) == 1
    assert await kept(ledger) == [1]
