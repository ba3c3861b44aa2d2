"""What agents keep and say."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace

import pytest

from perdure.domain.phases import Phase
from perdure.domain.records import Commit, Report, Superseded, TaskKey
from perdure.ledger import CorruptCheckpoint, Ledger, agent_side
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, START, at

INCOMPRESSIBLE = random.Random(7).randbytes(3_000_000)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"", "identity"),
        (b"\0", "identity"),
        (b"a" * 1024, "identity"),
        (b"a" * 1025, "zstd"),
        (INCOMPRESSIBLE[:2000], "identity"),
        (b"text " * 1_000_000, "zstd"),
        (INCOMPRESSIBLE, "identity"),
    ],
    ids=["empty", "nul", "small", "shrinks", "does not shrink", "large and shrinks", "large"],
)
async def test_checkpoints_come_back_as_written(
    ledger: Ledger, epoch: int, data: bytes, encoding: str
) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    assert await ledger.latest_checkpoint(session) is None
    written = await ledger.write_checkpoint(
        session, data, content_type="application/x-any", label="é\0", now=at(1)
    )
    assert written == 1
    checkpoint = await ledger.latest_checkpoint(session)
    assert checkpoint is not None
    assert checkpoint.data == data
    assert checkpoint.sha256 == hashlib.sha256(data).hexdigest()
    assert (checkpoint.sequence, checkpoint.attempt) == (1, 1)
    assert (checkpoint.content_type, checkpoint.label) == ("application/x-any", "é\ufffd")
    assert checkpoint.created_at == at(1)
    assert await ledger.checkpoint(session, 1) == checkpoint
    row = await ledger.database.fetchrow(
        "select encoding, size, stored_size, octet_length(data) as length from perdure.checkpoint"
    )
    assert row["encoding"] == encoding
    assert row["size"] == len(data)
    assert row["stored_size"] == row["length"] <= len(data)


async def test_the_newest_ten_are_kept_across_attempts(ledger: Ledger, epoch: int) -> None:
    other = TaskKey("other")
    state = await samples.started(ledger, epoch, KEY, other)
    session = await samples.session_of(ledger, state)
    beside = await samples.session_of(ledger, state, other)
    await ledger.write_checkpoint(beside, b"beside", content_type="text/plain", now=START)
    for number in range(1, 13):
        data = str(number).encode()
        written = await ledger.write_checkpoint(session, data, content_type="text/plain", now=at(number))
        assert written == number
    await samples.superseded(ledger, state, epoch)
    renewed = await ledger.attempt_for_pod("team-a", f"{state.attempts[KEY].pod_uid}-next")
    assert renewed is not None
    assert (renewed.attempt, renewed.open, renewed.checkpoint_sequence) == (2, True, 12)
    latest = await ledger.latest_checkpoint(renewed)
    assert latest is not None
    assert (latest.sequence, latest.attempt, latest.data) == (12, 1, b"12")
    assert await ledger.write_checkpoint(renewed, b"13", content_type="text/plain", now=at(99)) == 13
    kept = await ledger.database.fetch(
        "select sequence from perdure.checkpoint where step = 'work' order by 1"
    )
    assert [row["sequence"] for row in kept] == list(range(4, 14))
    assert agent_side.KEPT_CHECKPOINTS == 10
    assert await ledger.checkpoint(renewed, 3) is None
    left = await ledger.latest_checkpoint(beside)
    assert left is not None
    assert left.data == b"beside"


@pytest.mark.parametrize("damage", ["data = 'x'::bytea", "sha256 = sha256('x'::bytea)", "size = size + 1"])
async def test_a_damaged_checkpoint_is_never_handed_out(ledger: Ledger, epoch: int, damage: str) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    for data in (b"short", b"long " * 1000):
        await ledger.write_checkpoint(session, data, content_type="text/plain", now=START)
    await ledger.database.fetch(f"update perdure.checkpoint set {damage} where sequence = 2")
    with pytest.raises(CorruptCheckpoint, match="checkpoint 2"):
        await ledger.latest_checkpoint(session)
    older = await ledger.checkpoint(session, 1)
    assert older is not None
    assert older.data == b"short"


async def test_the_first_report_stands(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    first = Report(outcome="Failed", output=[1, "\0"], message="no\0", retryable=False, at=at(1))
    await ledger.report(session, first)
    await ledger.report(session, first)
    await ledger.report(session, samples.success("changed my mind"))
    news = await ledger.news(state.run.uid, since=None)
    assert news.version == 2
    assert news.reports == {KEY: (1, replace(first, output=[1, "\ufffd"], message="no\ufffd"))}
    # A report is no event: the operator makes that when it has decided.
    assert len(await ledger.events(state.run.uid)) == 1

    await samples.superseded(ledger, state, epoch)
    # The answer may have been lost on the way; the agent did nothing wrong.
    await ledger.report(session, first)
    with pytest.raises(Superseded):
        await ledger.heartbeat(session, at(9))


async def test_many_reports_at_once_are_one(ledger: Ledger, ledger_url: str, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    async with Ledger(ledger_url) as other:
        reports = [samples.success(number) for number in range(20)]
        writers = [ledger, other]
        await asyncio.gather(
            *(writers[number % 2].report(session, report) for number, report in enumerate(reports))
        )
    news = await ledger.news(state.run.uid, since=None)
    assert news.version == 2
    assert news.reports[KEY][1] in reports


async def test_vitals(ledger: Ledger, epoch: int) -> None:
    silent, busy = TaskKey("work", 0), TaskKey("work", 1)
    state = await samples.started(ledger, epoch, silent, busy)
    session = await samples.session_of(ledger, state, busy)
    uid = state.run.uid
    assert (await ledger.news(uid, since=None)).vitals == ()

    await ledger.progress(session, 10, "reading", at(1))
    await ledger.progress(session, None, "writing", at(2))
    (vitals,) = (await ledger.news(uid, since=None)).vitals
    assert (vitals.key, vitals.attempt, vitals.changed_at) == (busy, 1, at(2))
    assert (vitals.percent, vitals.message, vitals.checkpoint_sequence) == (10, "writing", None)
    assert (await ledger.news(uid, since=at(2))).vitals == ()

    await ledger.write_checkpoint(session, b"1", content_type="text/plain", label="half", now=at(3))
    await ledger.heartbeat(session, at(4))
    (vitals,) = (await ledger.news(uid, since=at(2))).vitals
    assert (vitals.percent, vitals.message, vitals.changed_at) == (10, "writing", at(4))
    assert (vitals.checkpoint_sequence, vitals.checkpoint_label) == (1, "half")
    assert vitals.checkpoint_at == at(3)

    # A new attempt starts without its predecessor's progress, and with its checkpoint.
    await samples.superseded(ledger, state, epoch, busy)
    renewed = await ledger.attempt_for_pod("team-a", f"{state.attempts[busy].pod_uid}-next")
    assert renewed is not None
    await ledger.heartbeat(renewed, at(70))
    (vitals,) = (await ledger.news(uid, since=at(4))).vitals
    assert (vitals.attempt, vitals.percent, vitals.message) == (2, None, None)
    assert vitals.checkpoint_sequence == 1


async def test_vitals_are_not_the_operators(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    await ledger.progress(session, 10, "reading", at(1))
    before = await ledger.news(state.run.uid, since=None)
    assert before.version == state.run.version
    task = replace(state.tasks[KEY], phase=Phase.RUNNING)
    await ledger.commit(Commit(run=state.run, tasks=(task,)), epoch=epoch)
    after = await ledger.news(state.run.uid, since=None)
    assert after == replace(before, version=before.version + 1)
