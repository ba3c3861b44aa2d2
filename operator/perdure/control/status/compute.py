"""The statuses of runs and tasks, computed from the committed records and from the state of their pods.

Pure. A status is a projection: no decision reads a status, so a status can be written late, or again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from perdure.api.status import MAX_STATUS_STEPS, MAX_STEP_MESSAGE, MAX_SUMMARY, timestamp
from perdure.control.live_run import LiveRun
from perdure.control.status.conditions import MAX_MESSAGE, conditions, was_accepted
from perdure.control.status.unheard import Unheard
from perdure.control.status.waiting import (
    MAX_NAMES,
    StatusInputs,
    run_waiting,
    step_waiting,
    task_waiting,
)
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.engine.run_control import is_cancelled
from perdure.domain.expressions.templating import compact
from perdure.domain.payloads import Payload
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import RunRecord, StepRecord, TaskKey

#: Compact JSON of outputs that a status may hold.
MAX_OUTPUT_BYTES = 8 * 1024
#: Compact JSON of a whole status.
MAX_STATUS_BYTES = 32 * 1024

_ORDER = {Phase.FAILED: 0, Phase.RUNNING: 1, Phase.PAUSED: 1, Phase.PENDING: 2}


def workflow_status(
    live: LiveRun,
    pods: Mapping[str, PodFacts],
    before: Mapping[str, Any],
    now: datetime,
    *,
    children: Mapping[str, Mapping[str, Any]] | None = None,
    wants: int = 0,
) -> dict[str, Any]:
    """The status of a Workflow, at most 32 KiB.

    `before` keeps the transition times of its conditions. `children` are the statuses of child Workflows by
    name, as far as they are known; `wants` is more than 0 if attempts wait for slots (`Decision.wants`).
    """
    inputs = StatusInputs(pods, children or {}, live.objects.warnings, Unheard(live, now), wants=wants)
    view = live.view
    run = view.run
    counts = Counter[Phase]()
    for step_counts in view.counts.values():
        counts.update(step_counts)
    waiting = run_waiting(live, inputs)
    message = (run.message if run.phase.terminal else "") or (waiting[1] if waiting else _activity(live))
    status: dict[str, Any] = {
        "observedGeneration": live.generation,
        "phase": run.phase.value,
        "progress": _progress(live),
        **_texts(message),
        "tasks": _numbers(counts, sum(counts.values())),
        "attempts": view.attempts_total,
        "events": run.last_sequence,
        "conditions": conditions(
            run.phase, run.reason, run.message, live.generation, waiting=waiting, before=before, now=now
        ),
    }
    if run.started_at is not None:
        status["startedAt"] = timestamp(run.started_at)
    if run.finished_at is not None:
        status["finishedAt"] = timestamp(run.finished_at)
    steps = _steps(live, inputs)
    status["steps"] = steps
    left = MAX_STATUS_BYTES
    outputs = run.outputs
    if run.phase is Phase.SUCCEEDED and outputs is not None and outputs.inline != b"{}":
        left -= min(outputs.size, MAX_OUTPUT_BYTES) + len(',"outputs":')
    # Long messages of a hundred steps could exceed the limit: the steps at the end of the list are left out.
    while len(compact(status)) > left and status["steps"]:
        status["steps"] = status["steps"][: len(status["steps"]) * 3 // 4]
    if left < MAX_STATUS_BYTES:
        status["outputs"] = small(outputs)
    return status


def task_status(
    live: LiveRun, key: TaskKey, pod: PodFacts | None, before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The status of an AgentTask, in a Workflow or standalone."""
    inputs = StatusInputs(
        {} if pod is None else {pod.name: pod}, warnings=live.objects.warnings, unheard=Unheard(live, now)
    )
    task = live.view.tasks[key]
    attempt = live.view.attempts.get(key)
    waiting = task_waiting(live, task, inputs)
    reason, message = (task.reason, task.message) if waiting is None else waiting
    if task.phase is Phase.RUNNING and not message:
        message = live.view.plan.steps[key.step].kind.activity(attempt, inputs)
    generation = live.generation if not key.step else 1
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "phase": task.phase.value,
        "attempt": task.attempt,
        "conditions": conditions(
            task.phase, reason, message, generation, waiting=waiting, before=before, now=now
        ),
    }
    if reason is not None:
        status["reason"] = reason.value
    if message:
        status |= _texts(message)
    if task.retry_at is not None and task.phase is Phase.PENDING:
        status["nextAttemptAt"] = timestamp(task.retry_at)
    if attempt is not None:
        # The pod of a Job has another name than the attempt, and `kubectl logs` needs the name of the pod.
        own = pod is not None and pod.attempt == attempt.number
        status["podName"] = pod.pod_name if pod is not None and own else attempt.pod_name
    if task.exit_code is not None:
        status["exitCode"] = task.exit_code
    for name, number in (("retries", task.retries), ("disruptions", task.disruptions)):
        if number:
            status[name] = number
    if task.last_failure is not None:
        status["lastFailure"] = _last_failure(task.last_failure)
    if task.output is not None:
        status["output"] = small(task.output)
    if task.started_at is not None:
        status["startedAt"] = timestamp(task.started_at)
    if task.finished_at is not None:
        status["finishedAt"] = timestamp(task.finished_at)
    _add_vitals(status, live, key)
    return status


def refused_status(
    generation: int,
    reason: Reason,
    message: str,
    before: Mapping[str, Any],
    now: datetime,
    *,
    final: bool,
    stalled: bool = False,
) -> dict[str, Any]:
    """The status of a run that was not accepted: for good (`final`), or not yet.

    A run that was accepted before, and waits for the ledger, keeps its condition Accepted.
    """
    phase = Phase.FAILED if final else Phase.PENDING
    return {
        "observedGeneration": generation,
        "phase": phase.value,
        **_texts(message),
        "conditions": conditions(
            phase,
            reason,
            message,
            generation,
            waiting=None if final else (reason, message),
            accepted=False if final else was_accepted(before),
            stalled=stalled,
            before=before,
            now=now,
        ),
    }


def small(payload: Payload | None) -> Any:
    """The value itself if it is at most 8 KiB of compact JSON; else a note that the ledger has the value.

    A payload that is small enough, and whose body only the ledger has, stays as it is: its body is read
    before the status is written.
    """
    if payload is None:
        return None
    if payload.size > MAX_OUTPUT_BYTES:
        return {"truncated": True, "bytes": payload.size, "note": "too large for a status; the ledger has it"}
    return payload if payload.inline is None else payload.value


def _texts(message: str) -> dict[str, str]:
    """A status's `message`, and its `summary` if the message does not fit on a line of `kubectl get`."""
    line = " ".join(message.split())
    if line == message and len(message) <= MAX_SUMMARY:
        return {"message": message}
    return {"message": shorten(message, MAX_MESSAGE), "summary": shorten(line, MAX_SUMMARY)}


def _last_failure(failure: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in failure.items() if value is not None}
    if "message" in shown:
        shown["message"] = shorten(shown["message"], MAX_MESSAGE)
    return shown


def _add_vitals(status: dict[str, Any], live: LiveRun, key: TaskKey) -> None:
    vitals = live.updates.vitals.get(key)
    if vitals is None:
        return
    if vitals.checkpoint_sequence is not None and vitals.checkpoint_at is not None:
        status["checkpoint"] = {
            "sequence": vitals.checkpoint_sequence,
            **({"label": vitals.checkpoint_label} if vitals.checkpoint_label else {}),
            "at": timestamp(vitals.checkpoint_at),
        }
    progress: dict[str, Any] = {}
    if vitals.percent is not None:
        progress["percent"] = vitals.percent
    if vitals.message:
        progress["message"] = shorten(vitals.message, MAX_STEP_MESSAGE)
    if progress:
        status["progress"] = progress


def _progress(live: LiveRun) -> str:
    """The number of ended tasks of all known tasks, such as `3/4`.

    Three kinds of steps count as one task: a step that is not evaluated yet, a loop (its number of iterations
    is not known), and a step that has no tasks. So the total never falls when a step is evaluated.
    """
    ended = total = 0
    for name, step in live.view.plan.steps.items():
        record = live.view.steps.get(name)
        if record is None or step.repeat is not None or not record.total:
            total += 1
            ended += record is not None and record.phase.terminal
        else:
            total += record.total
            ended += sum(number for phase, number in live.view.counts.get(name, {}).items() if phase.terminal)
    return f"{ended}/{total}"


def _activity(live: LiveRun) -> str:
    """The steps that run, and the stop that is under way, for the message of a run that waits for nothing."""
    view = live.view
    running = [
        name
        for name in view.plan.steps
        if (record := view.steps.get(name)) is not None and record.phase is Phase.RUNNING and name
    ]
    shown = ", ".join(running[:MAX_NAMES])
    if len(running) > MAX_NAMES:
        shown += f" and {len(running) - MAX_NAMES} more"
    parts = [_stopping(view.run)]
    parts.append(f"running: {shown}" if shown else "")
    return "; ".join(part for part in parts if part)


def _stopping(run: RunRecord) -> str:
    if run.phase.terminal:
        return ""
    if is_cancelled(run):
        return "is being cancelled"
    return "its timeout is over" if run.stop is Reason.TIMEOUT else ""


def _steps(live: LiveRun, inputs: StatusInputs) -> list[dict[str, Any]]:
    """Steps in the spec's order, main steps first; of more than a hundred, failed and active ones first."""
    plan = live.view.plan
    pairs = [(step, live.view.steps.get(name)) for name, step in plan.steps.items() if name]
    if len(pairs) > MAX_STATUS_STEPS:
        pairs.sort(key=lambda pair: _ORDER.get(pair[1].phase, 3) if pair[1] is not None else 4)
    return [_step(live, inputs, step, record) for step, record in pairs[:MAX_STATUS_STEPS]]


def _step(
    live: LiveRun, inputs: StatusInputs, step: PlannedStep, record: StepRecord | None
) -> dict[str, Any]:
    counts: Mapping[Phase, int] = live.view.counts.get(step.name) or {}
    phase = Phase.PENDING if record is None else record.phase
    reason, message = (None, "") if record is None else (record.reason, record.message)
    if not phase.terminal:
        phase = _displayed_phase(live, record, counts)
        reason, message = step_waiting(live, step, record, inputs) or (None, "")
        if not message:
            message = _step_activity(live, inputs, step, record)
    status: dict[str, Any] = {"name": step.name, "phase": phase.value}
    if reason is not None:
        status["reason"] = reason.value
    if message:
        status["message"] = shorten(message, MAX_STEP_MESSAGE)
    if record is not None and (record.total or counts):
        status["tasks"] = _numbers(counts, record.total)
    return status


def _displayed_phase(live: LiveRun, record: StepRecord | None, counts: Mapping[Phase, int]) -> Phase:
    """The phase of a step that has not ended: Paused once the run is paused and no task of the step runs."""
    if record is None:
        return Phase.PENDING
    if live.view.run.phase is Phase.PAUSED and not (counts.get(Phase.RUNNING) or counts.get(Phase.PENDING)):
        return Phase.PAUSED
    return record.phase


def _step_activity(live: LiveRun, inputs: StatusInputs, step: PlannedStep, record: StepRecord | None) -> str:
    """The activity of a running step, such as its iteration; empty if the step's tasks say enough."""
    if record is None:
        return ""
    if step.repeat is not None and record.total:
        return f"iteration {record.total} of at most {step.repeat.max_iterations}"
    if step.is_for_each:
        return ""
    return step.kind.activity(live.view.attempts.get(TaskKey(step.name)), inputs)


def _numbers(counts: Mapping[Phase, int], total: int) -> dict[str, int]:
    return {"total": total, **{phase.value.lower(): number for phase, number in counts.items() if number}}
