"""What stops a run, or holds it: a person's wish, its own deadline, a failure that is to stop the rest."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from operator import attrgetter

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.concurrency import is_cut, starts_nothing
from perdure.domain.engine.steps import STOPPED, complete
from perdure.domain.engine.task_end import end_task, stop_task
from perdure.domain.events import EventType
from perdure.domain.phases import Phase, Reason, Trigger
from perdure.domain.records import RunRecord


def is_cancelled(run: RunRecord) -> bool:
    """True if a run ends as Cancelled, whatever else becomes of it."""
    return Reason.CANCELLED in (run.stop, run.reason)


def apply_cancel(changes: ChangeSet) -> None:
    """Cancel the run if that is wanted. One that is paused is so no longer: its finally steps are to run.

    Once one of those was evaluated they are not stopped, and what they see of the run does not change under
    them: `stop` stays as it is, and the run remembers how it is to end by its reason.
    """
    if changes.observed.desired != "Cancelled" or is_cancelled(changes.run):
        return
    if changes.paused:
        _end_pause(changes)
    if any(changes.step(name) is not None for name in changes.plan.finally_order):
        message = "cancelled; the finally steps that run are let finish"
        changes.replace_run(reason=Reason.CANCELLED, message=message)
    else:
        changes.replace_run(stop=Reason.CANCELLED)


def apply_deadline(changes: ChangeSet) -> None:
    """Stop a run whose time is over, unless only its finally steps are left, which it does not cover."""
    run = changes.run
    if run.stop is not None or changes.paused or run.deadline_at is None or run.deadline_at > changes.now:
        return
    # What ended in time counts, even if it is seen only now.
    complete(changes, changes.plan.order)
    if changes.evaluation.requests:
        return  # Whether a loop has ended in time is known once they are answered.
    if not main_ended(changes):
        changes.replace_run(stop=Reason.TIMEOUT)


def apply_pause(changes: ChangeSet) -> None:
    """Pause or resume the run as is wanted. A cancel is final."""
    if is_cancelled(changes.run):
        return
    if changes.observed.desired == "Paused" and not changes.paused:
        _pause(changes)
    elif changes.observed.desired == "Running" and changes.paused:
        lost = _end_pause(changes)
        changes.event(EventType.WORKFLOW_RESUMED, pausedSeconds=round(lost.total_seconds(), 3))


def stop_rest(changes: ChangeSet) -> None:
    """Stop what is not to go on: tasks that never started, and, if that is the policy, those that run."""
    stop = changes.run.stop
    if stop is None:
        _skip_waiting(changes)
    if stop is not None:
        reason, message = STOPPED[stop]
    elif changes.failing and changes.plan.settings.failure_policy == "CancelRunning":
        reason, message = Reason.WORKFLOW_FAILED, "stopped, because the run failed"
    else:
        return
    for task in changes.live_tasks():
        if not changes.plan.steps[task.key.step].is_finally:
            stop_task(changes, task, reason, message)


def _skip_waiting(changes: ChangeSet) -> None:
    """Skip tasks that never had an attempt, and wait for a slot that they are not to take any more."""
    for task in sorted((task for task in changes.ready() if not task.attempt), key=attrgetter("key")):
        step, record = changes.plan.steps[task.key.step], changes.step(task.key.step)
        if record is None or not is_cut(changes, step, record):
            continue
        if starts_nothing(changes, step):
            message = "the run failed before this task could start"
            end_task(changes, task, Phase.SKIPPED, Reason.WORKFLOW_FAILED, message)
        else:
            message = "too many tasks of its step failed before this one could start"
            end_task(changes, task, Phase.SKIPPED, Reason.MAX_FAILURES, message)


def main_ended(changes: ChangeSet) -> bool:
    """True once every main step has ended."""
    return _ended(changes, changes.plan.order)


def finally_ended(changes: ChangeSet) -> bool:
    """True once every finally step has ended."""
    return _ended(changes, changes.plan.finally_order)


def _ended(changes: ChangeSet, names: Iterable[str]) -> bool:
    records = (changes.step(name) for name in names)
    return all(record is not None and record.phase.terminal for record in records)


def _pause(changes: ChangeSet) -> None:
    changes.replace_run(
        Trigger.PAUSE, phase=Phase.PAUSED, paused_at=changes.now, reason=Reason.PAUSED, message=""
    )
    changes.event(EventType.WORKFLOW_PAUSED)
    for task in changes.live_tasks():
        step = changes.plan.steps[task.key.step]
        step.kind.pause(changes, step, task)


def _end_pause(changes: ChangeSet) -> timedelta:
    """Let the run go on where it was. Every timer has as much left as it had when the pause began.

    Returns how long that lasted.
    """
    run = changes.run
    assert run.paused_at is not None
    lost = changes.now - run.paused_at
    started = run.started_at is not None
    changes.replace_run(
        Trigger.RESUME if started else Trigger.WAIT,
        phase=Phase.RUNNING if started else Phase.PENDING,
        paused_at=None,
        deadline_at=None if run.deadline_at is None else run.deadline_at + lost,
        reason=None,
        message="",
    )
    for task in changes.live_tasks():
        step = changes.plan.steps[task.key.step]
        step.kind.resume(changes, step, task, lost)
    return lost
