"""A live run in memory, with the counts that keep a decision's cost independent of the run's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from perdure.domain.engine.deadlines import fixed_deadline
from perdure.domain.engine.lazy_heap import LazyHeap
from perdure.domain.engine.plan import Plan, PlannedStep
from perdure.domain.phases import Phase
from perdure.domain.records import (
    AttemptRecord,
    Commit,
    Committed,
    RunRecord,
    RunState,
    StepRecord,
    TaskKey,
    TaskRecord,
)


@dataclass(slots=True)
class Evaluated:
    """What was evaluated for steps whose dependencies have ended, and so cannot change any more."""

    #: What a step's expressions see of the steps that it depends on.
    step_values: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The items of `forEach` steps.
    items: dict[str, list[Any]] = field(default_factory=dict)


class RunView:
    """What the ledger holds of one run, indexed. Changed only after the ledger has committed the change."""

    def __init__(self, plan: Plan, state: RunState) -> None:
        self.plan = plan
        self.run: RunRecord = state.run
        self.steps: dict[str, StepRecord] = dict(state.steps)
        self.tasks: dict[TaskKey, TaskRecord] = {}
        self.attempts: dict[TaskKey, AttemptRecord] = {}
        #: Tasks by phase, for each step.
        self.counts: dict[str, Counter[Phase]] = {}
        #: Tasks that have not ended; those of them that wait for a time; and those that have no open attempt
        #: and wait for no time, so that they start as soon as they may.
        self.live: set[TaskKey] = set()
        self.delayed: set[TaskKey] = set()
        self.ready: set[TaskKey] = set()
        #: When delayed tasks go on.
        self.delays: LazyHeap[TaskKey, datetime] = LazyHeap()
        #: Tasks whose attempt is open; how many of their agents take a slot of the limits that runs share.
        self.open: set[TaskKey] = set()
        self.slots = 0
        #: When time alone is to end them, as far as that is fixed, and those that may not be silent for long.
        #: One that was asked to leave is in neither.
        self.deadlines: LazyHeap[TaskKey, datetime] = LazyHeap()
        self.idle: set[TaskKey] = set()
        #: Unfinished tasks that count against the run's parallelism.
        self.working = 0
        #: Bytes of inputs and outputs of all tasks.
        self.payload_bytes = 0
        #: Attempts made in all.
        self.attempts_total = 0
        #: True once the run cannot succeed any more.
        self.failing = False
        self.evaluated = Evaluated()
        for attempt in state.attempts.values():
            self._put_attempt(attempt)
        for task in state.tasks.values():
            self._put(task)
        for name in plan.steps:
            self.failing = self.failing or self._fails(name)

    def apply(self, commit: Commit, committed: Committed) -> None:
        """Take over what the ledger has committed."""
        self.run = replace(
            commit.run,
            outputs=None if commit.run.outputs is None else commit.run.outputs.settled(),
            version=committed.version,
            last_sequence=committed.last_sequence,
        )
        for step in commit.steps:
            self.steps[step.name] = step
        # Before the tasks, since what is ready depends on what is open.
        for attempt in commit.attempts:
            self._put_attempt(attempt)
        for task in commit.tasks:
            self._put(task)
        if not self.failing:
            names = {step.name for step in commit.steps} | {task.key.step for task in commit.tasks}
            self.failing = any(self._fails(name) for name in names)

    def note_version(self, version: int) -> None:
        """Take over that the ledger has given the run this version, for what the next decision will see."""
        self.run = replace(self.run, version=version)

    def note_pod(self, key: TaskKey, pod_uid: str) -> None:
        """Take over that the ledger knows the pod of a task's newest attempt."""
        self.attempts[key] = replace(self.attempts[key], pod_uid=pod_uid)

    def tasks_of(self, step: str) -> Iterator[TaskRecord]:
        """The step's tasks that have been made, in order of their index."""
        record = self.steps.get(step)
        if record is None:
            return
        for key in task_keys(self.plan.steps[step], record):
            if key in self.tasks:
                yield self.tasks[key]

    # --- where names of expressions are read (see `task_scope.ScopeSource`)

    def step(self, name: str) -> StepRecord | None:
        return self.steps.get(name)

    def task(self, key: TaskKey) -> TaskRecord | None:
        return self.tasks.get(key)

    def items_of(self, step: str) -> list[Any] | None:
        """The items of a step, if they have been evaluated."""
        return self.evaluated.items.get(step)

    def step_values_of(self, step: str) -> Mapping[str, Any] | None:
        """What a step's expressions see of other steps, if that has been evaluated."""
        return self.evaluated.step_values.get(step)

    def remember(self, step: PlannedStep) -> Evaluated:
        """Where to keep what was evaluated for a step: the view only if that cannot change any more."""
        return self.evaluated if has_settled(self, step) else Evaluated()

    def _fails(self, name: str) -> bool:
        """True if a step's failures fail the run."""
        return fails_run(self.plan.steps[name], self.steps.get(name), self.counts.get(name))

    def _put_attempt(self, attempt: AttemptRecord) -> None:
        if attempt.report is not None and attempt.report.output is not None:
            output = attempt.report.output.settled()
            attempt = replace(attempt, report=replace(attempt.report, output=output))
        key = attempt.key
        step = self.plan.steps[key.step]
        is_open = attempt.closed_at is None
        if step.kind.counts.slot:
            self.slots += is_open - (key in self.open)
        self.attempts[key] = attempt
        (self.open.add if is_open else self.open.discard)(key)
        if not step.timed:
            return
        runs = is_open and attempt.stopping is None
        fixed = fixed_deadline(step, attempt) if runs else None
        self.deadlines.put(key, None if fixed is None else fixed[0])
        may_fall_silent = runs and step.idle_timeout is not None and attempt.started_at is not None
        (self.idle.add if may_fall_silent else self.idle.discard)(key)

    def _put(self, task: TaskRecord) -> None:
        before = self.tasks.get(task.key)
        task = _settled(task)
        self.payload_bytes += payload_bytes_of(task) - (0 if before is None else payload_bytes_of(before))
        self.attempts_total += task.attempt - (0 if before is None else before.attempt)
        counts = self.counts.setdefault(task.key.step, Counter())
        works = self.plan.steps[task.key.step].kind.counts.parallelism
        if before is not None:
            counts[before.phase] -= 1
            self.working -= works and not before.phase.terminal
        counts[task.phase] += 1
        self.working += works and not task.phase.terminal
        self.tasks[task.key] = task
        (self.live.discard if task.phase.terminal else self.live.add)(task.key)
        (self.delayed.discard if task.retry_at is None else self.delayed.add)(task.key)
        self.delays.put(task.key, task.retry_at)
        ready = may_start(task) and task.key not in self.open
        (self.ready.add if ready else self.ready.discard)(task.key)


def payload_bytes_of(task: TaskRecord) -> int:
    """Bytes of a task's input and output."""
    return sum(payload.size for payload in (task.input, task.output) if payload is not None)


def _settled(task: TaskRecord) -> TaskRecord:
    """The record of a task that is committed: the ledger has the bodies of its payloads."""
    input = None if task.input is None else task.input.settled()
    output = None if task.output is None else task.output.settled()
    if input is task.input and output is task.output:
        return task
    return replace(task, input=input, output=output)


def may_start(task: TaskRecord) -> bool:
    """True if a task that has no open attempt is to be started as soon as limits allow.

    A task that started without an attempt waits for a signal, also while it is paused. There may be
    thousands of them: a decision that visited each would cost as much as the run is large.
    """
    waits_for_signal = task.started_at is not None and not task.attempt
    return not task.phase.terminal and task.retry_at is None and not waits_for_signal


def has_settled(view: RunView, step: PlannedStep) -> bool:
    """True if what the expressions of a step see is committed and cannot change any more.

    A finally step sees how the run goes, which is settled once its record is committed.
    """
    before = (view.steps.get(name) for name in step.sees)
    settled = all(record is not None and record.phase.terminal for record in before)
    return settled and (not step.is_finally or step.name in view.steps)


def fails_run(step: PlannedStep, record: StepRecord | None, counts: Counter[Phase] | None) -> bool:
    """True if a main step has failed, or is bound to, and nothing says that the run tolerates it."""
    if step.is_finally or step.continue_on_failure:
        return False
    if record is not None and record.phase is Phase.FAILED:
        return True
    failed = 0 if counts is None else counts[Phase.FAILED]
    return failed > 0 and (record is None or failed > step.tolerated_failures(record.total))


def task_keys(step: PlannedStep, record: StepRecord) -> Iterator[TaskKey]:
    """The keys of a step's tasks, in order, whether they have been made or not."""
    if step.is_indexed:
        for index in range(record.total):
            yield TaskKey(step.name, index)
    else:
        yield TaskKey(step.name)
