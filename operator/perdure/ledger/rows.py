"""Records to the parameters of statements, and rows to records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from perdure.domain.payloads import Payload, Source
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    Commit,
    Event,
    LiveEntry,
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
from perdure.ledger.columns import REPORT, Columns
from perdure.ledger.parameters import dumps
from perdure.ledger.types import CHECKPOINTS_PER_TASK, AgentSession, CheckpointInfo

_RUN: Final = Columns(RunRecord)
_STEP: Final = Columns(StepRecord)
_TASK: Final = Columns(TaskRecord)
_ATTEMPT: Final = Columns(AttemptRecord)
_CACHED: Final = Columns(CachedResult)
_PENDING_EVENT: Final = Columns(PendingEvent)
_EVENT: Final = Columns(Event)
_SIGNAL: Final = Columns(Signal)
_VITALS: Final = Columns(Vitals)
_SESSION: Final = Columns(AgentSession)

live_entry: Final = Columns(LiveEntry).read
event: Final = _EVENT.read
checkpoint_info: Final = Columns(CheckpointInfo).read


# --- to parameters


def commit_arguments(commit: Commit, epoch: int) -> tuple[Any, ...]:
    """Parameters of the statement `commit`."""
    run = commit.run
    is_new = run.version == 0
    about = {
        **_RUN.values(run),
        # What a run does never changes: its spec is sent once.
        "spec": run.spec if is_new else None,
        "checkpoints_per_task": _checkpoints_per_task(run.spec) if is_new else None,
        "consumed": commit.consumed,
        "payload_bytes": commit.payload_bytes,
    }
    events = [
        {**_PENDING_EVENT.values(pending), "ordinal": ordinal}
        for ordinal, pending in enumerate(commit.events, start=1)
    ]
    return (
        run.uid,
        run.shard,
        epoch,
        run.version,
        dumps(about),
        dumps([_STEP.values(step) for step in commit.steps]),
        dumps([_TASK.values(task) for task in commit.tasks]),
        # Reports are not written, and need not be sent.
        dumps([_ATTEMPT.values(replace(attempt, report=None)) for attempt in commit.attempts]),
        dumps(events),
    )


def has_extras(commit: Commit) -> bool:
    """True if the decision consumes signals, or a task ended with a result that other runs may use, or that
    the ledger has elsewhere."""
    return bool(commit.consumed) or any(
        (task.cache_key is not None and task.phase is Phase.SUCCEEDED and task.reason is not Reason.CACHED)
        or (task.output is not None and task.output.source is not None)
        for task in commit.tasks
    )


def _checkpoints_per_task(spec: Mapping[str, Any]) -> int | None:
    """The limit of the run's snapshot; None if the snapshot is older than the limit."""
    retention = spec.get("retention")
    kept = retention.get("checkpointsPerTask") if isinstance(retention, Mapping) else None
    return kept if type(kept) is int and kept > 0 else None


def report_arguments(report: Report) -> tuple[bytes, bytes]:
    """A report as the ledger keeps it, and its head: all but an output that is large."""
    values = REPORT.values(report)
    inline = None if report.output is None else report.output.inline
    # As text: a driver that parsed the output would write its numbers in another way.
    head = {**values, "output": None if inline is None else inline.decode()}
    for name in ("output_size", "output_digest"):
        del values[name]
    return dumps(values), dumps(head)


# --- to records


def run_record(row: Any) -> RunRecord:
    """A run. Its outputs may be copied to another row."""
    run = _RUN.read(row)
    return replace(run, outputs=_from(run.outputs, "run", run.uid))


def cached_result(row: Any) -> CachedResult:
    found = _CACHED.read(row)
    return replace(found, output=_from(found.output, "cache", row["key"]))


def _report(number: int, head: Mapping[str, Any]) -> Report:
    report = REPORT.read(head)
    return replace(report, output=_from(report.output, "report", str(number)))


def _from(payload: Payload | None, kind: Literal["report", "run", "cache"], ref: str) -> Payload | None:
    return None if payload is None else payload.at(Source(kind, ref))


def _attempt(row: Any) -> AttemptRecord:
    attempt = _ATTEMPT.read(row)
    if attempt.report is None:
        return attempt
    return replace(attempt, report=_report(attempt.number, row["report"]))


def run_states(runs: list[Any], steps: list[Any], tasks: list[Any], attempts: list[Any]) -> list[RunState]:
    """Rows of any number of runs, read in one snapshot, as states in the order of `runs`."""
    states = {row["uid"]: RunState(run=run_record(row), steps={}, tasks={}, attempts={}) for row in runs}
    # The mappings are ours until we return them; typed as read-only for all callers.
    for row in steps:
        step = _STEP.read(row)
        states[row["workflow_uid"]].steps[step.name] = step  # type: ignore[index]
    for row in tasks:
        task = _TASK.read(row)
        states[row["workflow_uid"]].tasks[task.key] = task  # type: ignore[index]
    for row in attempts:
        attempt = _attempt(row)
        states[row["workflow_uid"]].attempts[attempt.key] = attempt  # type: ignore[index]
    return list(states.values())


def run_updates(row: Any, reports: Sequence[Any]) -> RunUpdates:
    """`row` is None for a run that the ledger does not know; `reports` are arrays of step, index, number and
    head."""
    if row is None:
        return RunUpdates(version=0, reports={}, vitals=())
    signals: dict[TaskKey, tuple[Signal, ...]] = {}
    for values in row["signals"] or ():
        signal = _SIGNAL.read_list(values)
        signals[signal.key] = (*signals.get(signal.key, ()), signal)
    return RunUpdates(
        version=row["version"],
        reports={
            TaskKey(step, index): (number, _report(number, head)) for step, index, number, head in reports
        },
        signals=signals,
        vitals=tuple(_VITALS.read_list(values) for values in row["vitals"] or ()),
    )


def session(row: Any) -> AgentSession:
    kept = row["checkpoints_per_task"] or CHECKPOINTS_PER_TASK
    return _SESSION.read({**row, "checkpoints_per_task": kept})


def outbox_row(row: Any) -> OutboxRow:
    return OutboxRow(id=row["id"], event=event(row))
