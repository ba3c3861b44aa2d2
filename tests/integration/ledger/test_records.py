"""What goes in comes out: every field, and the queries that find it."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from perdure.domain.payloads import payload_of, value_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import (
    AGENT_TASK,
    Commit,
    Committed,
    RunState,
    StepRecord,
    Suspect,
    TaskKey,
    VersionConflict,
)
from perdure.ledger import Ledger
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, START, at, event, load_live

#: Order of keys, unusual numbers, all of Unicode but what no JSON text can keep.
PAYLOAD = {
    "zeta": 1,
    "alpha": [1.0, 1e22, -0.5, 2**53 + 1, True, None, ""],
    "nested": {"b": {}, "a": []},
    "text": 'line\nquote" backslash\\ \u2028 \U0001f600 é',
}


def full_state() -> RunState:
    """Every field of every record has a value that is not its default."""
    run = samples.run_record(
        generation=3,
        phase=Phase.FAILED,
        spec=PAYLOAD,
        reason=Reason.TASKS_FAILED,
        message="one of two failed",
        outputs=PAYLOAD,
        started_at=at(1),
        finished_at=at(2),
        stop=Reason.TIMEOUT,
        deadline_at=at(10),
        paused_at=at(11),
        expires_at=at(3600),
    )
    key = TaskKey("each", 7)
    step = StepRecord(
        name="each",
        phase=Phase.FAILED,
        reason=Reason.TASKS_FAILED,
        message="see tasks",
        total=2,
        for_each=True,
        started_at=at(3),
        finished_at=at(4),
    )
    task = samples.task_record(
        key,
        phase=Phase.FAILED,
        reason=Reason.EXIT_CODE,
        message="exit code 3",
        input=PAYLOAD,
        attempt=2,
        retries=1,
        disruptions=4,
        retry_at=at(5),
        last_failure={"attempt": 1, "reason": "ExitCode", "message": "\U0001f600", "exitCode": 3},
        cache_key="3a7bd3e2360a3d29eea436fcfb7e44c7",
        cache_until=at(20),
        output=PAYLOAD,
        exit_code=3,
        started_at=at(6),
        finished_at=at(7),
    )
    report = replace(
        samples.success(PAYLOAD), outcome="Failed", message="cannot read the file", retryable=False
    )
    attempt = samples.attempt_record(
        key,
        2,
        pod_uid="0b9e",
        started_at=at(8),
        stopping=Reason.PAUSED,
        closed_at=at(9),
        outcome=Phase.FAILED,
        reason=Reason.EXIT_CODE,
        message="exit code 3",
        exit_code=3,
        report=report,
    )
    return RunState(run=run, steps={"each": step}, tasks={key: task}, attempts={key: attempt})


def commit_of(state: RunState, *events: Any) -> Commit:
    return Commit(
        run=state.run,
        steps=tuple(state.steps.values()),
        tasks=tuple(state.tasks.values()),
        attempts=tuple(state.attempts.values()),
        events=events,
    )


def test_the_sample_sets_every_field() -> None:
    state = full_state()
    (task,) = state.tasks.values()
    (attempt,) = state.attempts.values()
    (step,) = state.steps.values()
    assert attempt.report is not None
    for record in (state.run, step, task, attempt, attempt.report):
        for field in dataclasses.fields(record):
            if field.name not in ("version", "last_sequence") and field.default is not dataclasses.MISSING:
                assert getattr(record, field.name) != field.default, field.name


async def test_every_field_comes_back(ledger: Ledger, epoch: int) -> None:
    state = full_state()
    committed = await ledger.commit(commit_of(state, event("workflow.created")), epoch=epoch)
    assert committed == Committed(version=1, last_sequence=1)
    loaded = await ledger.load(state.run.uid)
    # Reports are the agents' to write.
    attempts = {key: replace(attempt, report=None) for key, attempt in state.attempts.items()}
    expected = replace(state, run=replace(state.run, version=1, last_sequence=1), attempts=attempts)
    assert loaded == expected
    # Equality of dicts says nothing about the order of keys, and 1 == 1.0.
    assert loaded is not None
    assert repr(value_of(loaded.run.outputs)) == repr(PAYLOAD)
    assert repr(value_of(loaded.tasks[TaskKey("each", 7)].input)) == repr(PAYLOAD)


async def test_a_commit_replaces_what_was_there(ledger: Ledger, epoch: int) -> None:
    full = full_state()
    await ledger.commit(commit_of(full), epoch=epoch)
    (key,) = full.tasks
    run = samples.run_record(uid=full.run.uid, version=1, message="again")
    bare = RunState(
        run=run,
        steps={"each": StepRecord(name="each", phase=Phase.PENDING)},
        tasks={key: samples.task_record(key, attempt=2)},
        attempts={key: samples.attempt_record(key, 2)},
    )
    await ledger.commit(commit_of(bare), epoch=epoch)
    loaded = await ledger.load(run.uid)
    assert loaded is not None
    assert loaded.run == replace(run, version=2, spec=PAYLOAD), "what a run does never changes"
    assert loaded.steps == bare.steps
    assert loaded.tasks == bare.tasks
    # The pod's uid is not the operator's alone: a decision that has not seen it does not lose it.
    kept = full.attempts[key]
    assert loaded.attempts == {key: replace(bare.attempts[key], pod_uid=kept.pod_uid)}


async def test_live_runs_and_newest_attempts(ledger: Ledger, epoch: int) -> None:
    one = await samples.started(ledger, epoch, TaskKey("a", 0), TaskKey("a", 1), TaskKey("b"))
    two = await samples.started(ledger, epoch, phase=Phase.PENDING)
    paused = await samples.started(ledger, epoch, phase=Phase.PAUSED, paused_at=at(1))
    done = await samples.started(ledger, epoch)
    await ledger.commit(Commit(run=replace(done.run, phase=Phase.SUCCEEDED)), epoch=epoch)
    newest = await samples.superseded(ledger, one, epoch, TaskKey("a", 1))

    live = {state.run.uid: state for state in await load_live(ledger)}
    assert set(live) == {one.run.uid, two.run.uid, paused.run.uid}
    assert live[two.run.uid] == two
    assert live[paused.run.uid] == paused
    assert live[one.run.uid].attempts == {**one.attempts, TaskKey("a", 1): newest}
    assert live[one.run.uid] == await ledger.load(one.run.uid)


async def test_an_unknown_run(ledger: Ledger, epoch: int) -> None:
    uid = str(uuid.uuid4())
    assert await ledger.load(uid) is None
    assert await ledger.events(uid) == []
    assert (await ledger.updates(uid, since=None)).version == 0
    assert await ledger.find_run("team-a", "audit") is None
    assert await ledger.attempt_for_pod("team-a", "no-such-pod") is None


async def test_text_that_postgres_cannot_hold(ledger: Ledger, epoch: int) -> None:
    state = full_state()
    (key,) = state.tasks
    odd = replace(state.tasks[key], output=payload_of({"a\0b": ["c\0", "d\ud800e"]}), message="f\0g")
    await ledger.commit(Commit(run=replace(state.run, message="\0"), tasks=(odd,)), epoch=epoch)
    loaded = await ledger.load(state.run.uid)
    assert loaded is not None
    assert value_of(loaded.tasks[key].output) == {"a\ufffdb": ["c\ufffd", "d\ufffde"]}
    assert loaded.tasks[key].message == "f\ufffdg"
    assert loaded.run.message == "\ufffd"


async def test_versions(ledger: Ledger, epoch: int) -> None:
    run = samples.run_record()
    await ledger.commit(Commit(run=run), epoch=epoch)
    with pytest.raises(VersionConflict):
        await ledger.commit(Commit(run=run, events=(event("workflow.created"),)), epoch=epoch)
    with pytest.raises(VersionConflict):
        await ledger.commit(
            Commit(run=replace(run, version=2), tasks=(samples.task_record(),), events=(event("x"),)),
            epoch=epoch,
        )
    with pytest.raises(VersionConflict):
        await ledger.commit(Commit(run=samples.run_record(version=1)), epoch=epoch)
    loaded = await ledger.load(run.uid)
    assert loaded is not None
    assert loaded.run.version == 1
    assert loaded.tasks == {}
    assert await ledger.events(run.uid) == []
    assert await ledger.outbox_batch(10) == []


async def test_find_run(ledger: Ledger, epoch: int) -> None:
    async def make(**changes: Any) -> str:
        run = samples.run_record(**changes)
        await ledger.commit(Commit(run=run), epoch=epoch)
        return run.uid

    await make(created_at=at(0))
    newest = await make(created_at=at(10))
    task = await make(created_at=at(20), kind=AGENT_TASK)
    await make(created_at=at(30), namespace="team-b")
    alone = await make(name="single", kind=AGENT_TASK)

    async def found(*arguments: Any, **options: Any) -> str | None:
        run = await ledger.find_run(*arguments, **options)
        return run and run.uid

    assert await found("team-a", "audit") == newest
    assert await found("team-a", "audit", kind=AGENT_TASK) == task
    assert await found("team-a", "single") == alone
    assert await found("team-c", "audit") is None


async def test_retention(ledger: Ledger, epoch: int) -> None:
    def finished(seconds: float, **changes: Any) -> dict[str, Any]:
        return {"phase": Phase.SUCCEEDED, "finished_at": START, "expires_at": at(seconds), **changes}

    late = await samples.started(ledger, epoch, **finished(20, name="late"))
    early = await samples.started(ledger, epoch, **finished(10, name="early", kind=AGENT_TASK))
    await samples.started(ledger, epoch, **finished(30.5))
    await samples.started(ledger, epoch, **finished(0, expires_at=None))
    live = await samples.started(ledger, epoch, expires_at=at(0))
    paused = await samples.started(ledger, epoch, phase=Phase.PAUSED, expires_at=at(0))

    session = await samples.session_of(ledger, early)
    await ledger.write_checkpoint(session, b"data", content_type="text/plain", now=START)

    expired = await ledger.expired(at(30), limit=10)
    assert expired == [
        (early.run.uid, "AgentTask", "team-a", "early"),
        (late.run.uid, "Workflow", "team-a", "late"),
    ]
    assert await ledger.expired(at(30), limit=1) == expired[:1]
    assert await ledger.expired(START + timedelta(seconds=9), limit=9) == []

    named = [early.run.uid, live.run.uid, paused.run.uid, str(uuid.uuid4())]
    await ledger.forget(named, epoch=epoch)
    assert await ledger.load(early.run.uid) is None
    assert await ledger.events(early.run.uid) == []
    assert await ledger.latest_checkpoint(session) is None
    assert await ledger.load(live.run.uid) == live
    assert await ledger.load(paused.run.uid) == paused
    # Published they still will be.
    assert early.run.uid in {row.event.workflow_uid for row in await ledger.outbox_batch(100)}
    left = await ledger.database.fetch(
        "select 'step' from perdure.step where workflow_uid = $1"
        " union all select 'task' from perdure.task where workflow_uid = $1"
        " union all select 'attempt' from perdure.attempt where workflow_uid = $1"
        " union all select 'checkpoint' from perdure.checkpoint where workflow_uid = $1",
        early.run.uid,
    )
    assert left == []


async def test_outcomes(ledger: Ledger, epoch: int) -> None:
    full = full_state()
    await ledger.commit(commit_of(full), epoch=epoch)
    live = await samples.started(ledger, epoch)
    other = await samples.started(ledger, epoch)
    found = await ledger.outcomes([full.run.uid, live.run.uid, str(uuid.uuid4()), live.run.uid])
    assert found == {
        full.run.uid: replace(full.run, spec={}, version=1),
        live.run.uid: replace(live.run, spec={}),
    }
    assert other.run.uid not in found
    assert await ledger.outcomes([]) == {}


async def test_record_pod(ledger: Ledger, epoch: int) -> None:
    run = samples.run_record()
    attempt = samples.attempt_record()
    await ledger.commit(Commit(run=run, tasks=(samples.task_record(),), attempts=(attempt,)), epoch=epoch)
    assert await ledger.attempt_for_pod("team-a", "pod-1") is None
    for _ in range(2):
        await ledger.record_pod(run.uid, attempt, pod_uid="pod-1", epoch=epoch)
    session = await ledger.attempt_for_pod("team-a", "pod-1")
    assert session is not None
    assert (session.workflow_uid, session.run_name, session.kind) == (run.uid, "audit", "Workflow")
    assert (session.key, session.task_name, session.attempt) == (KEY, "audit-work--1", 1)
    assert (session.shard, session.open, session.checkpoint_sequence) == (run.shard, True, None)
    assert await ledger.attempt_for_pod("team-b", "pod-1") is None
    loaded = await ledger.load(run.uid)
    assert loaded is not None
    assert loaded.run.version == 1
    assert loaded.attempts[KEY].pod_uid == "pod-1"

    closed = replace(attempt, closed_at=at(1))
    await ledger.commit(Commit(run=loaded.run, attempts=(closed,)), epoch=epoch)
    with pytest.raises(VersionConflict):
        await ledger.record_pod(run.uid, attempt, pod_uid="pod-2", epoch=epoch)
    session = await ledger.attempt_for_pod("team-a", "pod-1")
    assert session is not None
    assert not session.open


async def test_a_suspect_is_replaced_and_dropped(ledger: Ledger) -> None:
    suspect = Suspect(
        uid="u-1", kind="Workflow", namespace="team-a", name="audit", fingerprint="1-0", deaths=1, life="x"
    )
    await ledger.keep_suspect(suspect)
    again = replace(suspect, fingerprint="2-0", deaths=2, life="y")
    await ledger.keep_suspect(again)
    await ledger.keep_suspect(replace(suspect, uid="u-2"))
    assert await ledger.suspects() == [again, replace(suspect, uid="u-2")]
    await ledger.drop_suspect("u-1")
    await ledger.drop_suspect("unknown")
    assert [found.uid for found in await ledger.suspects()] == ["u-2"]
