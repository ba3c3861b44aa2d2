"""Records to write, with fixed times, and a run with one open attempt to write for."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.domain.names import shard_of
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase
from perdure.domain.records import (
    WORKFLOW,
    AttemptRecord,
    Commit,
    PendingEvent,
    Report,
    RunRecord,
    RunState,
    Signal,
    StepRecord,
    TaskKey,
    TaskRecord,
)
from perdure.ledger import AgentSession, Ledger

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
KEY = TaskKey("work")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def run_record(**changes: Any) -> RunRecord:
    uid = changes.pop("uid", None) or str(uuid.uuid4())
    run = RunRecord(
        uid=uid,
        kind=WORKFLOW,
        namespace="team-a",
        name="audit",
        generation=1,
        shard=shard_of(uid),
        phase=Phase.RUNNING,
        spec={"steps": [{"name": "work"}]},
        created_at=START,
    )
    return replace(run, **_payloads(changes))


def task_record(key: TaskKey = KEY, **changes: Any) -> TaskRecord:
    name = f"audit-{key.step}-{key.index}"
    return replace(TaskRecord(key=key, name=name, phase=Phase.PENDING, attempt=1), **_payloads(changes))


def _payloads(changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record, with payloads of values."""
    return {
        name: payload_of(value) if name in ("input", "output", "outputs") else value
        for name, value in changes.items()
    }


def attempt_record(key: TaskKey = KEY, number: int = 1, **changes: Any) -> AttemptRecord:
    record = AttemptRecord(key=key, number=number, pod_name=f"audit-{key.step}-{number}", created_at=START)
    return replace(record, **changes)


def event(type: str, **changes: Any) -> PendingEvent:
    return replace(PendingEvent(type=type, time=START), **changes)


def success(output: Any = None, seconds: float = 5) -> Report:
    return Report(outcome="Succeeded", output=payload_of(output), at=at(seconds))


def signal(id: str, payload: Any = None, **changes: Any) -> Signal:
    made = Signal(id=id, key=KEY, name="answer", payload=payload, sender="ada", at=at(3))
    return replace(made, **changes)


async def started(ledger: Ledger, epoch: int, *keys: TaskKey, **changes: Any) -> RunState:
    """A new run in the ledger whose tasks have an open first attempt each, with pods."""
    keys = keys or (KEY,)
    run = run_record(**changes)
    attempts = [attempt_record(key, pod_uid=f"pod-{run.uid}-{key.step}-{key.index}-1") for key in keys]
    await ledger.commit(
        Commit(
            run=run,
            steps=tuple(StepRecord(name=step, phase=Phase.RUNNING) for step in {key.step for key in keys}),
            tasks=tuple(task_record(key) for key in keys),
            attempts=tuple(attempts),
            events=(event("workflow.created"),),
        ),
        epoch=epoch,
    )
    state = await ledger.load(run.uid)
    assert state is not None
    return state


async def load_live(ledger: Ledger) -> list[RunState]:
    """Every live run, as an operator that starts loads them: no run may be unreadable."""
    page = await ledger.load_page([entry.uid for entry in await ledger.live_index()])
    assert not page.unreadable
    return list(page.states)


async def session_of(ledger: Ledger, state: RunState, key: TaskKey = KEY) -> AgentSession:
    pod_uid = state.attempts[key].pod_uid
    assert pod_uid is not None
    session = await ledger.attempt_for_pod(state.run.namespace, pod_uid)
    assert session is not None
    return session


async def superseded(ledger: Ledger, state: RunState, epoch: int, key: TaskKey = KEY) -> AttemptRecord:
    """Close the task's newest attempt and open the next, as after a disruption."""
    old = state.attempts[key]
    new = attempt_record(key, old.number + 1, pod_uid=f"{old.pod_uid}-next")
    current = await ledger.load(state.run.uid)
    assert current is not None
    await ledger.commit(
        Commit(
            run=current.run,
            tasks=(replace(current.tasks[key], attempt=new.number),),
            attempts=(replace(old, closed_at=at(60), outcome=Phase.FAILED), new),
            events=(event("task.disrupted"), event("task.scheduled")),
        ),
        epoch=epoch,
    )
    return new
