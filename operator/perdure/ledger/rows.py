"""Records to parameters, rows to records: the only place where both sides' field names meet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    Commit,
    Event,
    OutboxRow,
    PendingEvent,
    Report,
    RunRecord,
    RunState,
    RunUpdates,
    Signal,
    StepRecord,
    TaskKey,
    TaskRecord,
    Vitals,
)
from perdure.ledger.types import CHECKPOINTS_PER_TASK, AgentSession, CheckpointInfo

_OPTIONS = orjson.OPT_NON_STR_KEYS


def dumps(value: Any) -> bytes:
    """JSON for a json parameter. Datetimes must be aware.

    Postgres cannot hold U+0000, and UTF-8 has no surrogates; agents' output may carry either. Both become
    U+FFFD, because a value that can never be written would stop its run for good.
    """
    try:
        encoded = orjson.dumps(value, _plain, _OPTIONS)
    except TypeError:
        # Also what orjson raises for a surrogate; if the cause is another, it raises again.
        return orjson.dumps(_clean(value), _plain, _OPTIONS)
    if b"\\u0000" in encoded:
        return orjson.dumps(_clean(value), _plain, _OPTIONS)
    return encoded


def text(value: str) -> str:
    """The same for a text parameter."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    try:
        value.encode()
    except UnicodeEncodeError:
        value = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
    return value


def _plain(value: Any) -> Any:
    # Mappings that are no dicts, such as a frozen spec.
    if hasattr(value, "items"):
        return dict(value.items())
    raise TypeError(f"not JSON: {type(value).__name__}")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return text(str(value))
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if hasattr(value, "items"):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


# --- to parameters


def commit_arguments(commit: Commit, epoch: int) -> tuple[Any, ...]:
    """Parameters of the statement `commit`."""
    run = commit.run
    return (
        run.uid,
        run.shard,
        epoch,
        run.version,
        dumps(
            {
                "kind": run.kind,
                "namespace": run.namespace,
                "name": run.name,
                "generation": run.generation,
                "phase": run.phase,
                "reason": run.reason,
                "message": run.message,
                # What a run does never changes: it is sent once.
                "spec": run.spec if run.version == 0 else None,
                "checkpoints_per_task": _checkpoints_per_task(run.spec) if run.version == 0 else None,
                "outputs": run.outputs,
                "created_at": run.created_at,
                "started_at": run.started_at,
                "finished_at": run.finished_at,
                "stop": run.stop,
                "deadline_at": run.deadline_at,
                "paused_at": run.paused_at,
                "expires_at": run.expires_at,
                "consumed": commit.consumed,
            }
        ),
        dumps([_step(step) for step in commit.steps]),
        dumps([_task(task) for task in commit.tasks]),
        dumps([_attempt(attempt) for attempt in commit.attempts]),
        dumps([_draft(number, draft) for number, draft in enumerate(commit.events, start=1)]),
    )


def has_extras(commit: Commit) -> bool:
    """True if the decision consumes signals, or a task ended with a result that other runs may use."""
    return bool(commit.consumed) or any(
        task.cache_key is not None and task.phase is Phase.SUCCEEDED and task.reason is not Reason.CACHED
        for task in commit.tasks
    )


def _checkpoints_per_task(spec: Mapping[str, Any]) -> int | None:
    """What the run's snapshot says; None if it is from before there was anything to say."""
    retention = spec.get("retention")
    kept = retention.get("checkpointsPerTask") if isinstance(retention, Mapping) else None
    return kept if type(kept) is int and kept > 0 else None


def _step(step: StepRecord) -> dict[str, Any]:
    return {
        "name": step.name,
        "phase": step.phase,
        "reason": step.reason,
        "message": step.message,
        "total": step.total,
        "for_each": step.for_each,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    }


def _task(task: TaskRecord) -> dict[str, Any]:
    return {
        "step": task.key.step,
        "index": task.key.index,
        "name": task.name,
        "phase": task.phase,
        "reason": task.reason,
        "message": task.message,
        "input": task.input,
        "attempt": task.attempt,
        "retries": task.retries,
        "disruptions": task.disruptions,
        "retry_at": task.retry_at,
        "last_failure": task.last_failure,
        "cache_key": task.cache_key,
        "cache_until": task.cache_until,
        "output": task.output,
        "exit_code": task.exit_code,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
    }


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "step": attempt.key.step,
        "index": attempt.key.index,
        "number": attempt.number,
        "pod_name": attempt.pod_name,
        "pod_uid": attempt.pod_uid,
        "created_at": attempt.created_at,
        "started_at": attempt.started_at,
        "stopping": attempt.stopping,
        "closed_at": attempt.closed_at,
        "outcome": attempt.outcome,
        "reason": attempt.reason,
        "message": attempt.message,
        "exit_code": attempt.exit_code,
        "report": None if attempt.report is None else report_json(attempt.report),
    }


def _draft(ordinal: int, draft: PendingEvent) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "type": draft.type,
        "time": draft.time,
        "task": draft.task,
        "attempt": draft.attempt,
        "data": draft.data,
    }


def report_json(report: Report) -> dict[str, Any]:
    """A report as it lies in the ledger."""
    return {
        "outcome": report.outcome,
        "output": report.output,
        "message": report.message,
        "retryable": report.retryable,
        "at": report.at,
    }


# --- to records


def _reason(value: str | None) -> Reason | None:
    return None if value is None else Reason(value)


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).astimezone(UTC)


def run_record(row: Any) -> RunRecord:
    return RunRecord(
        uid=str(row["uid"]),
        kind=row["kind"],
        namespace=row["namespace"],
        name=row["name"],
        generation=row["generation"],
        shard=row["shard"],
        phase=Phase(row["phase"]),
        spec=row["spec"],
        created_at=row["created_at"],
        reason=_reason(row["reason"]),
        message=row["message"],
        outputs=row["outputs"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        stop=_reason(row["stop"]),
        deadline_at=row["deadline_at"],
        paused_at=row["paused_at"],
        expires_at=row["expires_at"],
        version=row["version"],
        last_sequence=row["last_sequence"],
    )


def _step_record(row: Any) -> StepRecord:
    return StepRecord(
        name=row["name"],
        phase=Phase(row["phase"]),
        reason=_reason(row["reason"]),
        message=row["message"],
        total=row["total"],
        for_each=row["for_each"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def _task_record(row: Any) -> TaskRecord:
    return TaskRecord(
        key=TaskKey(row["step"], row["index"]),
        name=row["name"],
        phase=Phase(row["phase"]),
        reason=_reason(row["reason"]),
        message=row["message"],
        input=row["input"],
        attempt=row["attempt"],
        retries=row["retries"],
        disruptions=row["disruptions"],
        retry_at=row["retry_at"],
        last_failure=row["last_failure"],
        cache_key=row["cache_key"],
        cache_until=row["cache_until"],
        output=row["output"],
        exit_code=row["exit_code"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def _attempt_record(row: Any) -> AttemptRecord:
    return AttemptRecord(
        key=TaskKey(row["step"], row["index"]),
        number=row["number"],
        pod_name=row["pod_name"],
        created_at=row["created_at"],
        pod_uid=row["pod_uid"],
        started_at=row["started_at"],
        stopping=_reason(row["stopping"]),
        closed_at=row["closed_at"],
        outcome=None if row["outcome"] is None else Phase(row["outcome"]),
        reason=_reason(row["reason"]),
        message=row["message"],
        exit_code=row["exit_code"],
        report=None if row["report"] is None else _report(row["report"]),
    )


def _report(value: dict[str, Any]) -> Report:
    at = _time(value["at"])
    assert at is not None
    return Report(
        outcome=value["outcome"],
        output=value["output"],
        message=value["message"],
        retryable=value["retryable"],
        at=at,
    )


def run_states(runs: list[Any], steps: list[Any], tasks: list[Any], attempts: list[Any]) -> list[RunState]:
    """Rows of any number of runs, read in one snapshot, as states in the order of `runs`."""
    states = {row["uid"]: RunState(run=run_record(row), steps={}, tasks={}, attempts={}) for row in runs}
    # The mappings are ours until we return them; typed as read-only for everybody else.
    for row in steps:
        step = _step_record(row)
        states[row["workflow_uid"]].steps[step.name] = step  # type: ignore[index]
    for row in tasks:
        task = _task_record(row)
        states[row["workflow_uid"]].tasks[task.key] = task  # type: ignore[index]
    for row in attempts:
        attempt = _attempt_record(row)
        states[row["workflow_uid"]].attempts[attempt.key] = attempt  # type: ignore[index]
    return list(states.values())


def run_updates(row: Any) -> RunUpdates:
    """`row` is None for a run that the ledger does not know."""
    if row is None:
        return RunUpdates(version=0, reports={}, vitals=())
    signals: dict[TaskKey, tuple[Signal, ...]] = {}
    for values in row["signals"] or ():
        signal = _signal(*values)
        signals[signal.key] = (*signals.get(signal.key, ()), signal)
    return RunUpdates(
        version=row["version"],
        reports={
            TaskKey(step, index): (number, _report(report))
            for step, index, number, report in row["reports"] or ()
        },
        signals=signals,
        vitals=tuple(_vitals(*values) for values in row["vitals"] or ()),
    )


def _signal(id: str, step: str, index: int, name: str, payload: Any, sender: str, at: str) -> Signal:
    return Signal(
        id=id,
        key=TaskKey(step, index),
        name=name,
        payload=payload,
        sender=sender,
        at=datetime.fromisoformat(at).astimezone(UTC),
    )


def _vitals(
    step: str,
    index: int,
    attempt: int,
    changed_at: str,
    sequence: int | None,
    label: str | None,
    checkpoint_at: str | None,
    percent: float | None,
    message: str | None,
) -> Vitals:
    changed = _time(changed_at)
    assert changed is not None
    return Vitals(
        key=TaskKey(step, index),
        attempt=attempt,
        changed_at=changed,
        checkpoint_sequence=sequence,
        checkpoint_label=label,
        checkpoint_at=_time(checkpoint_at),
        percent=percent,
        message=message,
    )


def session(row: Any) -> AgentSession:
    return AgentSession(
        workflow_uid=str(row["uid"]),
        kind=row["kind"],
        namespace=row["namespace"],
        run_name=row["run_name"],
        shard=row["shard"],
        key=TaskKey(row["step"], row["index"]),
        task_name=row["task_name"],
        attempt=row["number"],
        pod_name=row["pod_name"],
        open=row["open"],
        input=row["input"],
        last_failure=row["last_failure"],
        checkpoint_sequence=row["checkpoint_sequence"],
        checkpoint_label=row["checkpoint_label"],
        checkpoint_at=row["checkpoint_at"],
        checkpoints_per_task=row["checkpoints_per_task"] or CHECKPOINTS_PER_TASK,
    )


def checkpoint_info(row: Any) -> CheckpointInfo:
    return CheckpointInfo(
        sequence=row["sequence"],
        attempt=row["attempt"],
        created_at=row["created_at"],
        content_type=row["content_type"],
        label=row["label"],
        size=row["size"],
        sha256=row["sha256"].hex(),
        recoverable=row["recoverable"],
    )


def cached_result(row: Any) -> CachedResult:
    return CachedResult(output=row["output"], workflow=row["workflow"], task=row["task"])


def event(row: Any) -> Event:
    return Event(
        workflow_uid=str(row["workflow_uid"]),
        namespace=row["namespace"],
        workflow=row["workflow"],
        kind=row["kind"],
        sequence=row["sequence"],
        type=row["type"],
        time=row["time"],
        data=row["data"],
        task=row["task"],
        attempt=row["attempt"],
    )


def outbox_row(row: Any) -> OutboxRow:
    return OutboxRow(id=row["id"], event=event(row))
