"""A decision in the making: the run as it is, overlaid by what is about to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from perdure.domain.engine.deadlines import deadlines, last_sign
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.plan import Plan, PlannedStep
from perdure.domain.engine.view import Evaluated, RunView, fails_run, has_settled, may_start, payload_bytes_of
from perdure.domain.events import EventType
from perdure.domain.expressions.evaluation import Evaluation
from perdure.domain.phases import RUN, STEP, TASK, Phase, Trigger, check_transition
from perdure.domain.records import (
    WORKFLOW,
    AttemptRecord,
    Commit,
    PendingEvent,
    RunRecord,
    Signal,
    StepRecord,
    TaskKey,
    TaskRecord,
)


class ChangeSet:
    """Reads fall through to the view; writes stay here until they become a Commit."""

    def __init__(self, view: RunView, now: datetime, observed: Observed | None = None) -> None:
        self.view = view
        self.now = now
        self.observed = observed or Observed()
        self.run: RunRecord = view.run
        self._steps: dict[str, StepRecord] = {}
        self._tasks: dict[TaskKey, TaskRecord] = {}
        #: By number too: one decision may close an attempt and open the next, in this order.
        self._attempts: dict[tuple[TaskKey, int], AttemptRecord] = {}
        self._newest: dict[TaskKey, AttemptRecord] = {}
        self._events: list[PendingEvent] = []
        #: Bytes by which inputs and outputs of tasks grow.
        self._more_bytes = 0
        #: Ids of signals, in the order in which this decision used them.
        self._consumed: dict[str, None] = {}
        self._counts: dict[str, Counter[Phase]] = {}
        self._evaluated = Evaluated()
        #: Unfinished tasks that count against the run's parallelism.
        self.working = view.working
        self.failing = view.failing
        #: Attempts that may still be started under the limits that runs share; None without limits.
        self.slots = self.observed.slots
        #: Tasks that wait for a slot; and how many more each step has that would wait if they were made.
        self.wants = 0
        self.unmade: dict[str, int] = {}
        #: Tasks for which the cache was asked and has not answered, by their cache keys; and how many of
        #: each step do.
        self.questions: dict[TaskKey, str] = {}
        #: Tasks that are not made because some of what they run with is not evaluated, or because the same
        #: holds for an earlier task of their step.
        self.postponed: set[TaskKey] = set()
        self._asked: Counter[str] = Counter()
        self.evaluation = Evaluation(self.observed.answers)
        self._signs: dict[TaskKey, datetime] | None = None

    @property
    def plan(self) -> Plan:
        return self.view.plan

    @property
    def paused(self) -> bool:
        """True while nothing may be started."""
        return self.run.phase is Phase.PAUSED

    def step(self, name: str) -> StepRecord | None:
        return self._steps.get(name) or self.view.steps.get(name)

    def task(self, key: TaskKey) -> TaskRecord | None:
        return self._tasks.get(key) or self.view.tasks.get(key)

    def attempt(self, key: TaskKey) -> AttemptRecord | None:
        return self._newest.get(key) or self.view.attempts.get(key)

    def open_attempt(self, key: TaskKey) -> AttemptRecord | None:
        """The task's newest attempt, if it is open."""
        attempt = self.attempt(key)
        return None if attempt is None or attempt.closed_at is not None else attempt

    def counts(self, step: str) -> Counter[Phase]:
        """The step's tasks by phase. Not to be changed by the caller."""
        return self._counts.get(step) or self.view.counts.get(step) or Counter()

    def items_of(self, step: str) -> list[Any] | None:
        """The items of a step, if they have been evaluated."""
        items = self.view.evaluated.items.get(step)
        return self._evaluated.items.get(step) if items is None else items

    def step_values_of(self, step: str) -> Mapping[str, Any] | None:
        """What a step's expressions see of its dependencies, if it has been put together."""
        values = self.view.evaluated.step_values.get(step)
        return self._evaluated.step_values.get(step) if values is None else values

    def remember(self, step: PlannedStep) -> Evaluated:
        """Where to keep what was evaluated for a step.

        That is the view only if it cannot change any more: ends that this decision brings about may never be
        committed, and the next decision may see others. A finally step sees how the run goes, which is
        settled once the evaluation of the step is committed.
        """
        return self.view.evaluated if has_settled(self.view, step) else self._evaluated

    def put_run(self, run: RunRecord, trigger: Trigger | None = None) -> None:
        check_transition(RUN, self.run.phase, trigger, run.phase)
        self.run = run

    def put_step(self, step: StepRecord, trigger: Trigger | None = None) -> None:
        before = self.step(step.name)
        check_transition(STEP, Phase.PENDING if before is None else before.phase, trigger, step.phase)
        self._steps[step.name] = step
        self._note_failure(step.name)

    def put_task(self, task: TaskRecord, trigger: Trigger | None = None) -> None:
        before = self.task(task.key)
        check_transition(TASK, Phase.PENDING if before is None else before.phase, trigger, task.phase)
        counts = self._counts.get(task.key.step)
        if counts is None:
            counts = self._counts[task.key.step] = Counter(self.view.counts.get(task.key.step, Counter()))
        works = self.plan.steps[task.key.step].kind.counts.parallelism
        if before is not None:
            counts[before.phase] -= 1
            self.working -= works and not before.phase.terminal
        counts[task.phase] += 1
        self.working += works and not task.phase.terminal
        self._more_bytes += payload_bytes_of(task) - (0 if before is None else payload_bytes_of(before))
        self._tasks[task.key] = task
        self._note_failure(task.key.step)

    def _note_failure(self, name: str) -> None:
        if not self.failing:
            self.failing = fails_run(self.plan.steps[name], self.step(name), self.counts(name))

    def put_attempt(self, attempt: AttemptRecord) -> None:
        self._attempts[attempt.key, attempt.number] = attempt
        self._newest[attempt.key] = attempt

    def event(self, type: EventType, *, task: TaskRecord | None = None, **data: Any) -> None:
        """Add an event to the change set. A standalone AgentTask has no events of a workflow."""
        if self.run.kind != WORKFLOW and type.about_workflow:
            return
        facts = {name: value for name, value in data.items() if value is not None}
        if task is not None and task.key.step:
            facts = {
                "step": task.key.step,
                **({"index": task.key.index} if task.key.index >= 0 else {}),
                **facts,
            }
        self._events.append(
            PendingEvent(
                type=type,
                time=self.now,
                data=facts,
                task=None if task is None else task.name,
                attempt=None if task is None else (task.attempt or None),
            )
        )

    def signals(self, key: TaskKey) -> list[Signal]:
        """Signals for a task that neither an earlier decision nor this one has consumed, oldest first."""
        return [signal for signal in self.observed.signals.get(key, ()) if signal.id not in self._consumed]

    def consume(self, signal: Signal) -> None:
        """Use a signal: once this decision is committed, no later one sees the signal."""
        self._consumed[signal.id] = None

    def ask(self, key: TaskKey, cache_key: str) -> None:
        """Ask whether there is a result under the cache key of a task that is not made yet."""
        if key not in self.questions:
            self._asked[key.step] += 1
        self.questions[key] = cache_key

    def postpone(self, key: TaskKey) -> None:
        """Do not make a task before the requests of this decision are answered."""
        if key not in self.postponed:
            self._asked[key.step] += 1
        self.postponed.add(key)

    def asked(self, step: str) -> int:
        """How many tasks of a step are not made, because this decision waits for answers."""
        return self._asked[step]

    @property
    def asked_total(self) -> int:
        """How many tasks of all steps are not made for that cause."""
        return len(self.questions) + len(self.postponed)

    def discard_requests(self) -> None:
        """Ask for nothing, and want no slots."""
        self.questions.clear()
        self.postponed.clear()
        self.evaluation.requests.clear()
        self._asked.clear()
        self.unmade.clear()
        self.wants = 0

    def due(self) -> list[TaskRecord]:
        """Tasks whose next attempt or end of a wait is due."""
        keys = {*self.view.delays.due(self.now), *self._tasks}
        tasks = (self.task(key) for key in keys)
        return [
            task
            for task in tasks
            if task is not None and task.retry_at is not None and task.retry_at <= self.now
        ]

    def next_due(self) -> datetime | None:
        """When the next such time comes."""
        first = self.view.delays.first_rank(self._tasks)
        times = [task.retry_at for task in self._tasks.values() if task.retry_at is not None]
        return min(times if first is None else [*times, first], default=None)

    def ready(self) -> Iterator[TaskRecord]:
        """Tasks that have not ended, have no open attempt, and wait for no time."""
        for key in self.view.ready:
            if key not in self._tasks:
                yield self.view.tasks[key]
        for key, task in self._tasks.items():
            if may_start(task) and self.open_attempt(key) is None:
                yield task

    @property
    def observed_at(self) -> datetime:
        """The moment up to which it is known what attempts did."""
        observed_at = self.observed.observed_at
        return self.now if observed_at is None else min(self.now, observed_at)

    def overdue(self) -> list[TaskKey]:
        """Tasks whose attempts time alone ends now, as they were before this decision."""
        found = self.view.deadlines.due(self.observed_at)
        silent_since: dict[str, datetime] = {}
        for key, at in self._last_signs().items():
            if key.step not in silent_since:
                limit = self.plan.steps[key.step].idle_timeout
                assert limit is not None
                silent_since[key.step] = self.observed_at - limit
            if at <= silent_since[key.step]:
                found.append(key)
        return found

    def next_deadline(self) -> datetime | None:
        """When time alone ends the next attempt."""
        first = self.view.deadlines.first_rank(self._newest)
        times = [] if first is None else [first]
        oldest: dict[str, datetime] = {}
        for key, at in self._last_signs().items():
            if (key.step not in oldest or at < oldest[key.step]) and key not in self._newest:
                oldest[key.step] = at
        for name, at in oldest.items():
            limit = self.plan.steps[name].idle_timeout
            assert limit is not None
            times.append(at + limit)
        for attempt in self._newest.values():
            if attempt.closed_at is None and attempt.stopping is None:
                step = self.plan.steps[attempt.key.step]
                times += [at for at, _ in deadlines(step, attempt, self.observed)]
        return min(times, default=None)

    def _last_signs(self) -> dict[TaskKey, datetime]:
        """When agents that may not be silent for long last gave a sign; of the view, found once."""
        if self._signs is None:
            attempts = self.view.attempts
            self._signs = {key: last_sign(attempts[key], self.observed) for key in self.view.idle}
        return self._signs

    def live_tasks(self) -> list[TaskRecord]:
        """Tasks that have not ended, by key."""
        tasks = (self.task(key) for key in sorted(self.view.live | self._tasks.keys()))
        return [task for task in tasks if task is not None and not task.phase.terminal]

    def commit(self) -> Commit | None:
        """What has changed; None if nothing has."""
        changed = self._steps or self._tasks or self._attempts or self._events or self._consumed
        if self.run == self.view.run and not changed:
            return None
        return Commit(
            run=self.run,
            steps=tuple(self._steps.values()),
            tasks=tuple(self._tasks.values()),
            attempts=tuple(self._attempts.values()),
            events=tuple(self._events),
            consumed=tuple(self._consumed),
            payload_bytes=self.payload_bytes,
        )

    @property
    def payload_bytes(self) -> int:
        """Bytes of all inputs and outputs of the run, after what is about to change."""
        outputs = 0 if self.run.outputs is None else self.run.outputs.size
        return self.view.payload_bytes + outputs + self._more_bytes

    def replace_run(self, trigger: Trigger | None = None, **changes: Any) -> None:
        self.put_run(replace(self.run, **changes), trigger)
