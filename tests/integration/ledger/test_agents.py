"""What agents keep and say."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace
from typing import Any

import pytest

from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase
from perdure.domain.records import Commit, Report, Superseded, TaskKey
from perdure.ledger import CorruptCheckpoint, Ledger
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
        (b"text " * 200_000, "zstd"),
        (INCOMPRESSIBLE[: 1024 * 1024], "identity"),
        (b"text " * 1_000_000, "pieces"),
        (INCOMPRESSIBLE, "pieces"),
    ],
    ids=[
        "empty",
        "nul",
        "small",
        "shrinks",
        "does not",
        "medium",
        "medium, does not",
        "large",
        "large, does not",
    ],
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
        "select encoding, size, stored_size, octet_length(data) as length, upload from perdure.checkpoint"
    )
    assert row["size"] == len(data)
    if encoding == "pieces":
        pieces = await ledger.database.fetch(
            "select octet_length(data) as length, packed from perdure.checkpoint_piece where upload = $1",
            row["upload"],
        )
        assert row["length"] == 0
        assert row["stored_size"] == sum(piece["length"] for piece in pieces) <= len(data)
        assert {piece["packed"] for piece in pieces} == {data is not INCOMPRESSIBLE}
    else:
        assert (row["encoding"], row["upload"]) == (encoding, None)
        assert row["stored_size"] == row["length"] <= len(data)


async def test_the_newest_ten_are_kept_across_attempts(ledger: Ledger, epoch: int) -> None:
    other = TaskKey("other")
    state = await samples.started(ledger, epoch, KEY, other)
    session = await samples.session_of(ledger, state)
    neighbour = await samples.session_of(ledger, state, other)
    await ledger.write_checkpoint(neighbour, b"neighbour", content_type="text/plain", now=START)
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
    assert await ledger.checkpoint(renewed, 3) is None
    left = await ledger.latest_checkpoint(neighbour)
    assert left is not None
    assert left.data == b"neighbour"


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ({"retention": {"checkpointsPerTask": 3}}, 3),
        ({"retention": {"checkpointsPerTask": 1}}, 1),
        ({"retention": {"checkpointsPerTask": 1000}}, 1000),
        ({"retention": {"ttlAfterFinished": "1h"}}, 10),
        ({}, 10),
    ],
)
async def test_the_run_says_how_many_are_kept(
    ledger: Ledger, epoch: int, spec: dict[str, Any], kept: int
) -> None:
    state = await samples.started(ledger, epoch, spec=spec)
    # Whatever is committed later, what the run does stays as it was made.
    await ledger.commit(Commit(run=replace(state.run, spec={})), epoch=epoch)
    session = await samples.session_of(ledger, state)
    assert session.checkpoints_per_task == kept
    for number in range(1, 13):
        await ledger.write_checkpoint(session, b"x", content_type="text/plain", now=at(number))
    found = await ledger.database.fetch("select sequence from perdure.checkpoint order by 1")
    assert [row["sequence"] for row in found] == list(range(max(1, 13 - kept), 13))


async def test_the_facts_of_a_session(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    assert (session.checkpoint_sequence, session.checkpoint_label, session.checkpoint_at) == (None,) * 3
    assert session.last_failure is None
    await ledger.write_checkpoint(session, b"1", content_type="text/plain", label="half", now=at(1))
    await ledger.write_checkpoint(session, b"2", content_type="text/plain", now=at(2))
    session = await samples.session_of(ledger, state)
    assert (session.checkpoint_sequence, session.checkpoint_label, session.checkpoint_at) == (2, None, at(2))
    await ledger.write_checkpoint(session, b"3", content_type="text/plain", label="done\0", now=at(3))
    failure = {"attempt": 1, "reason": "ExitCode", "message": "no such file", "exitCode": 2}
    task = replace(state.tasks[KEY], last_failure=failure)
    await ledger.commit(Commit(run=state.run, tasks=(task,)), epoch=epoch)
    session = await samples.session_of(ledger, state)
    assert (session.checkpoint_sequence, session.checkpoint_label, session.checkpoint_at) == (
        3,
        "done\ufffd",
        at(3),
    )
    assert session.last_failure == failure


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
    first = Report(outcome="Failed", output=payload_of([1, "\0"]), message="no\0", retryable=False, at=at(1))
    await ledger.report(session, first)
    await ledger.report(session, first)
    await ledger.report(session, samples.success("changed my mind"))
    updates = await ledger.updates(state.run.uid, since=None)
    assert updates.version == 2
    assert updates.reports == {KEY: (1, replace(first, output=payload_of([1, "\ufffd"]), message="no\ufffd"))}
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
    updates = await ledger.updates(state.run.uid, since=None)
    assert updates.version == 2
    assert updates.reports[KEY][1] in reports


async def test_vitals(ledger: Ledger, epoch: int) -> None:
    silent, busy = TaskKey("work", 0), TaskKey("work", 1)
    state = await samples.started(ledger, epoch, silent, busy)
    session = await samples.session_of(ledger, state, busy)
    uid = state.run.uid
    assert (await ledger.updates(uid, since=None)).vitals == ()

    await ledger.progress(session, 10, "reading", at(1))
    await ledger.progress(session, None, "writing", at(2))
    (vitals,) = (await ledger.updates(uid, since=None)).vitals
    assert (vitals.key, vitals.attempt, vitals.changed_at) == (busy, 1, at(2))
    assert (vitals.percent, vitals.message, vitals.checkpoint_sequence) == (10, "writing", None)
    assert (await ledger.updates(uid, since=at(2))).vitals == ()

    await ledger.write_checkpoint(session, b"1", content_type="text/plain", label="half", now=at(3))
    await ledger.heartbeat(session, at(4))
    (vitals,) = (await ledger.updates(uid, since=at(2))).vitals
    assert (vitals.percent, vitals.message, vitals.changed_at) == (10, "writing", at(4))
    assert (vitals.checkpoint_sequence, vitals.checkpoint_label) == (1, "half")
    assert vitals.checkpoint_at == at(3)

    # A new attempt starts without its predecessor's progress, and with its checkpoint.
    await samples.superseded(ledger, state, epoch, busy)
    renewed = await ledger.attempt_for_pod("team-a", f"{state.attempts[busy].pod_uid}-next")
    assert renewed is not None
    await ledger.heartbeat(renewed, at(70))
    (vitals,) = (await ledger.updates(uid, since=at(4))).vitals
    assert (vitals.attempt, vitals.percent, vitals.message) == (2, None, None)
    assert vitals.checkpoint_sequence == 1


async def test_vitals_are_not_the_operators(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    await ledger.progress(session, 10, "reading", at(1))
    before = await ledger.updates(state.run.uid, since=None)
    assert before.version == state.run.version
    task = replace(state.tasks[KEY], phase=Phase.RUNNING)
    await ledger.commit(Commit(run=state.run, tasks=(task,)), epoch=epoch)
    after = await ledger.updates(state.run.uid, since=None)
    assert after == replace(before, version=before.version + 1)
