"""What people see of a run: its status, computed from what was committed and what its pods wait for.

Pure. A status is a projection and nothing is ever read back from it, so it can be written late, or again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from perdure.api.status import MAX_STATUS_STEPS, MAX_STEP_MESSAGE, timestamp
from perdure.control.live import LiveRun
from perdure.domain.facts import PodFacts
from perdure.domain.outcome import shorten
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AttemptRecord, StepRecord, TaskKey, TaskRecord
from perdure.domain.templating import compact

#: Compact JSON of outputs that a status may hold.
MAX_OUTPUT_BYTES = 8 * 1024
#: Compact JSON of a whole status.
MAX_STATUS_BYTES = 32 * 1024
MAX_MESSAGE = 1024

_ORDER = {Phase.FAILED: 0, Phase.RUNNING: 1, Phase.PENDING: 2}
_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"})

Waiting = tuple[Reason, str]


def waiting_reason(pod: PodFacts) -> Waiting | None:
    """Why an existing pod's agent does not run yet; None if it does, or did."""
    if pod.started_at is not None or pod.ended:
        return None
    if pod.unschedulable is not None:
        return Reason.UNSCHEDULABLE, pod.unschedulable
    if pod.waiting is not None:
        reason, message = pod.waiting
        if reason in _IMAGE_REASONS:
            return Reason.IMAGE_PULL, f"{reason}: {message}" if message else reason
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            return Reason.STARTING, f"{reason}: {message}" if message else reason
    return Reason.STARTING, "the pod is being started"


def task_waiting(
    live: LiveRun, task: TaskRecord, attempt: AttemptRecord | None, pod: PodFacts | None
) -> Waiting | None:
    """Why a task does not run; None if it does, or has ended."""
    if task.phase is not Phase.PENDING:
        return None
    if task.key in live.held_up:
        return live.held_up[task.key]
    if task.retry_at is not None:
        return (
            Reason.BACKOFF,
            f"attempt {task.attempt + 1} starts at {timestamp(task.retry_at)}: {task.message}",
        )
    if pod is not None and attempt is not None and pod.attempt == attempt.number:
        return waiting_reason(pod)
    return Reason.STARTING, "the pod is being made"


def workflow_status(
    live: LiveRun, pods: Mapping[str, PodFacts], before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The status of a Workflow, at most 32 KiB. `before` keeps the transition times of its conditions."""
    view = live.view
    run = view.run
    counts = Counter[Phase]()
    for step_counts in view.counts.values():
        counts.update(step_counts)
    waiting = _run_waiting(live, pods)
    message = run.message or (waiting[1] if waiting else _progress_message(live))
    status: dict[str, Any] = {
        "observedGeneration": live.generation,
        "phase": run.phase.value,
        "progress": _progress(live),
        "message": shorten(message, MAX_MESSAGE),
        "tasks": _numbers(counts, sum(counts.values())),
        "attempts": sum(task.attempt for task in view.tasks.values()),
        "events": run.last_sequence,
        "conditions": conditions(
            run.phase, run.reason, run.message, live.generation, waiting=waiting, before=before, now=now
        ),
    }
    if run.started_at is not None:
        status["startedAt"] = timestamp(run.started_at)
    if run.finished_at is not None:
        status["finishedAt"] = timestamp(run.finished_at)
    if run.phase is Phase.SUCCEEDED and run.outputs:
        status["outputs"] = small(run.outputs)
    steps = _steps(live, pods)
    status["steps"] = steps[:MAX_STATUS_STEPS]
    # Long messages in a hundred steps could pass the limit: the least interesting steps go first.
    while len(compact(status)) > MAX_STATUS_BYTES and status["steps"]:
        status["steps"] = status["steps"][: len(status["steps"]) * 3 // 4]
    return status


def task_status(
    live: LiveRun, key: TaskKey, pod: PodFacts | None, before: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The status of an AgentTask, of a run or standing alone."""
    task = live.view.tasks[key]
    attempt = live.view.attempts.get(key)
    waiting = task_waiting(live, task, attempt, pod)
    reason, message = (task.reason, task.message) if waiting is None else waiting
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
        status["message"] = shorten(message, MAX_MESSAGE)
    if attempt is not None:
        status["podName"] = attempt.pod_name
    if task.exit_code is not None:
        status["exitCode"] = task.exit_code
    for name, number in (("retries", task.retries), ("disruptions", task.disruptions)):
        if number:
            status[name] = number
    if task.output is not None:
        status["output"] = small(task.output)
    if task.started_at is not None:
        status["startedAt"] = timestamp(task.started_at)
    if task.finished_at is not None:
        status["finishedAt"] = timestamp(task.finished_at)
    _add_vitals(status, live, key)
    return status


def refused_status(
    generation: int, reason: Reason, message: str, before: Mapping[str, Any], now: datetime, *, final: bool
) -> dict[str, Any]:
    """The status of a run that was not accepted: for good, or not yet.

    One that was accepted before, and waits for the ledger, stays accepted.
    """
    phase = Phase.FAILED if final else Phase.PENDING
    return {
        "observedGeneration": generation,
        "phase": phase.value,
        "message": shorten(message, MAX_MESSAGE),
        "conditions": conditions(
            phase,
            reason,
            message,
            generation,
            waiting=None if final else (reason, message),
            accepted=False if final else _was_accepted(before),
            before=before,
            now=now,
        ),
    }


def conditions(
    phase: Phase,
    reason: Reason | None,
    message: str,
    generation: int,
    *,
    waiting: Waiting | None,
    before: Mapping[str, Any],
    now: datetime,
    accepted: bool | None = True,
) -> list[dict[str, Any]]:
    """Conditions in the sense of kstatus, and Complete or Failed at the end for `kubectl wait`.

    `accepted` is None while it is not known.
    """
    word = reason.value if reason is not None else phase.value
    text = shorten(message, MAX_MESSAGE)
    values: dict[str, tuple[str, str, str]] = {}
    if accepted:
        values["Accepted"] = ("True", "Accepted", "")
    else:
        values["Accepted"] = ("Unknown" if accepted is None else "False", word, text)
    if phase is Phase.SUCCEEDED:
        values["Ready"] = ("True", word, text)
        values["Complete"] = ("True", word, text)
        values["Failed"] = ("False", word, "")
    elif phase.terminal:
        values["Ready"] = ("False", word, text)
        values["Complete"] = ("False", word, "")
        values["Failed"] = ("True", word, text)
        values["Stalled"] = ("True", word, text)
    else:
        values["Ready"] = ("False", phase.value, "")
        waits = waiting or (reason if reason is not None else Reason.STARTING, text)
        values["Reconciling"] = (
            "True",
            waits[0].value if waiting else phase.value,
            shorten(waits[1], MAX_MESSAGE),
        )
    values.setdefault("Reconciling", ("False", word, ""))
    values.setdefault("Stalled", ("False", word, ""))
    return [
        _condition(type, *value, generation=generation, before=before, now=now)
        for type, value in values.items()
    ]


def _was_accepted(before: Mapping[str, Any]) -> bool | None:
    for condition in before.get("conditions") or ():
        if condition.get("type") == "Accepted" and condition.get("status") == "True":
            return True
    return None


def status_patch(uid: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The JSON patch (RFC 6902) that makes status `after` of `before`; [] if they are equal.

    A merge patch could not write a null that is part of an output. The test of the uid makes the API server
    refuse the patch for a namesake that was made in the meantime.
    """
    if not before:
        changes = [{"op": "add", "path": "/status", "value": dict(after)}] if after else []
    else:
        changes = [{"op": "remove", "path": f"/status/{name}"} for name in before if name not in after]
        changes += [
            {"op": "add", "path": f"/status/{name}", "value": value}
            for name, value in after.items()
            if name not in before or before[name] != value
        ]
    return [{"op": "test", "path": "/metadata/uid", "value": uid}, *changes] if changes else []


def small(value: Any) -> Any:
    """A value that a status may hold; a larger one is replaced by a note of where it is."""
    size = len(compact(value))
    if size <= MAX_OUTPUT_BYTES:
        return value
    return {"truncated": True, "bytes": size, "note": "too large for a status; the ledger has it"}


def _condition(
    type: str,
    status: str,
    reason: str,
    message: str,
    *,
    generation: int,
    before: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    old = next((item for item in before.get("conditions") or () if item.get("type") == type), None)
    changed = old is None or old.get("status") != status
    return {
        "type": type,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": timestamp(now) if changed or old is None else old["lastTransitionTime"],
    }


def _add_vitals(status: dict[str, Any], live: LiveRun, key: TaskKey) -> None:
    vitals = live.vitals.get(key)
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
    """Ended tasks of all that are known to be done.

    A step that was not looked at yet counts as one, and so does one that turned out to have no task: what
    was counted does not vanish.
    """
    ended = total = 0
    for name in live.view.plan.order:
        record = live.view.steps.get(name)
        if record is None:
            total += 1
        elif not record.total:
            total += 1
            ended += 1
        else:
            total += record.total
            ended += sum(number for phase, number in live.view.counts.get(name, {}).items() if phase.terminal)
    return f"{ended}/{total}"


def _progress_message(live: LiveRun) -> str:
    running = [
        name
        for name in live.view.plan.order
        if (record := live.view.steps.get(name)) is not None and record.phase is Phase.RUNNING and name
    ]
    if not running:
        return ""
    shown = ", ".join(running[:3]) + (f" and {len(running) - 3} more" if len(running) > 3 else "")
    return f"running: {shown}"


def _run_waiting(live: LiveRun, pods: Mapping[str, PodFacts]) -> Waiting | None:
    """What the whole run waits for: a reason only if none of its tasks runs."""
    if live.view.run.phase.terminal:
        return None
    first: Waiting | None = None
    for key in sorted(live.view.live):
        task = live.view.tasks[key]
        attempt = live.view.attempts.get(key)
        pod = None if attempt is None else pods.get(attempt.pod_name)
        waiting = task_waiting(live, task, attempt, pod)
        if waiting is None:
            return None
        if first is None:
            first = (waiting[0], f"{task.name}: {waiting[1]}")
    return first


def _steps(live: LiveRun, pods: Mapping[str, PodFacts]) -> list[dict[str, Any]]:
    """Steps in the spec's order up to a hundred; beyond that failed and active ones come first."""
    names: Iterable[str] = (name for name in live.view.plan.steps if name)
    records = [(name, live.view.steps.get(name)) for name in names]
    if len(records) > MAX_STATUS_STEPS:
        records.sort(key=lambda pair: _ORDER.get(pair[1].phase, 3) if pair[1] is not None else 4)
    return [_step(live, pods, name, record) for name, record in records[:MAX_STATUS_STEPS]]


def _step(
    live: LiveRun, pods: Mapping[str, PodFacts], name: str, record: StepRecord | None
) -> dict[str, Any]:
    if record is None:
        return {"name": name, "phase": Phase.PENDING.value, "reason": Reason.DEPENDENCY.value}
    counts = live.view.counts.get(name, Counter())
    status: dict[str, Any] = {"name": name, "phase": record.phase.value}
    reason, message = record.reason, record.message
    if record.phase is Phase.RUNNING:
        waiting = _step_waiting(live, pods, name, record, counts)
        if waiting is not None:
            reason, message = waiting
    if reason is not None:
        status["reason"] = reason.value
    if message:
        status["message"] = shorten(message, MAX_STEP_MESSAGE)
    if record.total or counts:
        status["tasks"] = _numbers(counts, record.total)
    return status


def _step_waiting(
    live: LiveRun, pods: Mapping[str, PodFacts], name: str, record: StepRecord, counts: Counter[Phase]
) -> Waiting | None:
    if record.for_each:
        made = counts.total()
        if made < record.total and live.view.plan.parallelism is not None:
            return (
                Reason.PARALLELISM,
                f"{record.total - made} tasks wait: parallelism {live.view.plan.parallelism}",
            )
        return None
    key = TaskKey(name)
    attempt = live.view.attempts.get(key)
    pod = None if attempt is None else pods.get(attempt.pod_name)
    return task_waiting(live, live.view.tasks[key], attempt, pod)


def _numbers(counts: Mapping[Phase, int], total: int) -> dict[str, int]:
    return {"total": total, **{phase.value.lower(): number for phase, number in counts.items() if number}}
