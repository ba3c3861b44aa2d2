"""Why a task, a step or a run waits: one reason of a closed set, and an explanation for people.

Pure. The cause of a run is found without visiting all of its tasks, because a run's status is computed up to
once a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perdure.control.live_run import LiveRun
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_waiting import Waiting
from perdure.domain.engine.step_kind import ClusterView
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import NO_INDEX, StepRecord, TaskKey, TaskRecord

#: Names that a message lists.
MAX_NAMES = 3
LIMIT_MESSAGE = "the limit of tasks that may run at once in the namespace or in all is used up"


@dataclass(frozen=True, slots=True)
class StatusInputs(ClusterView):
    """The observations that a status is computed from, besides the committed run."""

    #: More than 0 if the last decision had attempts to start, and the limits across runs had no free slot.
    wants: int = field(default=0, kw_only=True)


def task_waiting(live: LiveRun, task: TaskRecord, inputs: StatusInputs) -> Waiting | None:
    """Why a task does not run; None if it does, or has ended."""
    if task.phase.terminal:
        return None
    attempt = live.view.attempts.get(task.key)
    if attempt is not None and (attempt.closed_at is not None or attempt.number != task.attempt):
        attempt = None
    if attempt is not None and attempt.stopping is not None:
        return attempt.stopping, "its agent was asked to save a checkpoint and leave"
    if task.phase is Phase.PAUSED:
        return Reason.PAUSED, task.message or "paused"
    if task.retry_at is None and task.phase is Phase.PENDING and task.key in live.objects.blocked:
        return live.objects.blocked[task.key]
    return live.view.plan.steps[task.key.step].kind.waiting(task, attempt, inputs)


def run_waiting(live: LiveRun, inputs: StatusInputs) -> Waiting | None:
    """The cause for which the whole run waits; None if one of its tasks runs, or the run has ended."""
    view = live.view
    if view.run.phase.terminal:
        return None
    if view.run.phase is Phase.PAUSED:
        # Only pods have to leave: a child Workflow is paused in place, and has no slot.
        leaving = view.slots
        return Reason.PAUSED, f"paused; {_number(leaving, 'pod')} still to leave" if leaving else "paused"
    for name, counts in view.counts.items():
        if counts[Phase.RUNNING] and view.plan.steps[name].kind.counts.parallelism:
            return None
    key = min(view.live, default=None)
    if key is None:
        return (Reason.LIMIT, LIMIT_MESSAGE) if inputs.wants else None
    task = view.tasks[key]
    waiting = task_waiting(live, task, inputs)
    if waiting is None:
        return None
    reason, message = waiting
    return reason, f"{_display_name(live, task)}: {message}".removesuffix(": ")


def _display_name(live: LiveRun, task: TaskRecord) -> str:
    """The name of a task's AgentTask or child; the step's name if its kind has no such object."""
    if live.view.plan.steps[task.key.step].kind.counts.objects:
        return task.name
    return task.key.step if task.key.index == NO_INDEX else f"{task.key.step}[{task.key.index}]"


def step_waiting(
    live: LiveRun, step: PlannedStep, record: StepRecord | None, inputs: StatusInputs
) -> Waiting | None:
    """Why a step that has not ended does not go on; None if it does."""
    view = live.view
    if record is None:
        return _waiting_for_dependencies(live, step)
    if view.run.phase is Phase.PAUSED:
        counts: Mapping[Phase, int] = view.counts.get(step.name) or {}
        leaving = _active(counts) - counts.get(Phase.PAUSED, 0)
        return Reason.PAUSED, f"{_number(leaving, 'task')} still to leave" if leaving else "paused"
    if record.phase is Phase.PENDING and record.reason is not None:
        return record.reason, record.message
    if step.is_for_each:
        return _for_each_waiting(live, step, record, inputs)
    task = view.tasks.get(TaskKey(step.name, record.total - 1) if step.repeat else TaskKey(step.name))
    return None if task is None else task_waiting(live, task, inputs)


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _waiting_for_dependencies(live: LiveRun, step: PlannedStep) -> Waiting:
    view = live.view
    # Finally steps wait for all main steps, with or without a reference to them.
    needed = step.depends_on + view.plan.order if step.is_finally else step.depends_on
    missing = []
    for name in needed:
        record = view.steps.get(name)
        if record is None or not record.phase.terminal:
            missing.append(name)
            if len(missing) > MAX_NAMES:
                break
    if missing:
        return Reason.DEPENDENCY, f"waits for {_listed(missing)}"
    if view.run.phase is Phase.PAUSED:
        return Reason.PAUSED, "paused"
    return Reason.STARTING, ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (" and others" if len(names) > MAX_NAMES else "")


def _for_each_waiting(
    live: LiveRun, step: PlannedStep, record: StepRecord, inputs: StatusInputs
) -> Waiting | None:
    """Why tasks of a `forEach` step do not start, or why none of its live tasks runs; else None."""
    view = live.view
    counts: Mapping[Phase, int] = view.counts.get(step.name) or {}
    uncreated = 0 if _starts_nothing(live, step) else record.total - sum(counts.values())
    active = _active(counts)
    if uncreated > 0:
        if step.parallelism is not None and active >= step.parallelism:
            limit = f"the step's parallelism {step.parallelism}"
            return Reason.PARALLELISM, f"{_tasks_wait(uncreated)}: {limit}"
        parallelism = view.plan.settings.parallelism
        if parallelism is not None and _working(live) >= parallelism:
            return Reason.PARALLELISM, f"{_tasks_wait(uncreated)}: parallelism {parallelism}"
    limited = sum(key.step == step.name and view.tasks[key].reason is Reason.LIMIT for key in view.ready) + (
        uncreated if inputs.wants else 0
    )
    if limited:
        return Reason.LIMIT, f"{_tasks_wait(limited)}: {LIMIT_MESSAGE}"
    if active and not counts.get(Phase.RUNNING):
        key = min((key for key in view.live if key.step == step.name), default=None)
        return None if key is None else task_waiting(live, view.tasks[key], inputs)
    return None


def _tasks_wait(number: int) -> str:
    return f"{number} task waits" if number == 1 else f"{number} tasks wait"


def _starts_nothing(live: LiveRun, step: PlannedStep) -> bool:
    """True if the run ends, so that no further task of the step starts."""
    view = live.view
    if step.is_finally:
        return False
    return view.run.stop is not None or (view.failing and view.plan.settings.failure_policy != "RunAll")


def _active(counts: Mapping[Phase, int]) -> int:
    return sum(number for phase, number in counts.items() if not phase.terminal)


def _working(live: LiveRun) -> int:
    """Tasks that count against the run's parallelism."""
    steps = live.view.plan.steps
    counted = live.view.counts.items()
    return sum(_active(counts) for name, counts in counted if steps[name].kind.counts.parallelism)
