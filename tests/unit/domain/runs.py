"""A run that is taken forward by decisions, in a ledger of plain dictionaries.

Every decision that is made here is also checked: made twice it is the same, made from records that were
written and read again it is the same, and what it commits keeps the rules (`rules.py`).
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from tests.unit.domain.clock import START
from tests.unit.domain.rules import check_commit

from perdure.domain.decide import Decision, decide
from perdure.domain.facts import ContainerExit, PodFacts
from perdure.domain.observed import Observed, Refusal
from perdure.domain.phases import Phase, Reason
from perdure.domain.plan import compile_plan
from perdure.domain.records import (
    AttemptRecord,
    Commit,
    Committed,
    EventDraft,
    Report,
    RunState,
    StepRecord,
    TaskKey,
    TaskRecord,
)
from perdure.domain.view import RunView


class Run:
    """A run with its history. `view` is what the operator holds, the rest what the ledger would."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.now = START
        self.run = view.run
        self.steps: dict[str, StepRecord] = {}
        self.tasks: dict[TaskKey, TaskRecord] = {}
        self.attempts: dict[tuple[TaskKey, int], AttemptRecord] = {}
        self.events: list[EventDraft] = []

    # --- deciding

    def decide(self, observed: Observed | None = None, *, now: datetime | None = None) -> Decision:
        """One decision, checked and committed."""
        observed = observed or Observed()
        self.now = now or self.now
        reloaded = self.reloaded()
        for index in ("run", "steps", "tasks", "attempts", "live", "delayed"):
            assert getattr(self.view, index) == getattr(reloaded, index), index
        assert {name: +counts for name, counts in self.view.counts.items()} == reloaded.counts
        decision = decide(self.view, observed, self.now)
        assert decide(self.view, observed, self.now) == decision
        assert decide(reloaded, observed, self.now) == decision
        if decision.commit is not None:
            check_commit(self, decision)
            self._commit(decision.commit)
        return decision

    def settle(self, observed: Observed | None = None, *, now: datetime | None = None) -> None:
        """Decisions until there is no more to start at once."""
        decision = self.decide(observed, now=now)
        while decision.more:
            decision = self.decide()
        assert self.decide().commit is None, "nothing is new, so nothing is to be decided"

    def reloaded(self) -> RunView:
        """The view of an operator that has just read the ledger."""
        state = RunState(
            run=_stored(self.run),
            steps=dict(self.steps),
            tasks={key: _stored(task) for key, task in self.tasks.items()},
            attempts={key: attempt for (key, _), attempt in sorted(self.attempts.items())},
        )
        return RunView(compile_plan(state.run.spec), state)

    def _commit(self, commit: Commit) -> None:
        committed = Committed(
            version=self.run.version + 1, last_sequence=self.run.last_sequence + len(commit.events)
        )
        self.view.apply(commit, committed)
        self.run = replace(commit.run, version=committed.version, last_sequence=committed.last_sequence)
        self.steps |= {step.name: step for step in commit.steps}
        self.tasks |= {task.key: task for task in commit.tasks}
        self.attempts |= {(attempt.key, attempt.number): attempt for attempt in commit.attempts}
        self.events += commit.events

    # --- what is observed

    def pod(self, key: TaskKey, *, attempt: int | None = None, **facts: Any) -> PodFacts:
        """The pod of a task's newest attempt, running unless told otherwise."""
        task = self.tasks[key]
        number = task.attempt if attempt is None else attempt
        return PodFacts(
            name=f"{task.name}-{number}",
            uid=f"uid-{task.name}-{number}",
            task=task.name,
            owner_uid="owner",
            attempt=number,
            **({"phase": "Running", "started_at": self.now} | facts),
        )

    def started(self, *keys: TaskKey) -> None:
        self.settle(Observed(pods={key: self.pod(key) for key in keys}))

    def exited(self, *keys: TaskKey, code: int = 0, message: str = "") -> None:
        """The agents' containers end."""
        ends = ContainerExit(code=code, reason="Completed" if code == 0 else "Error", message=message)
        self.settle(Observed(pods={key: self.pod(key, exit=ends) for key in keys}))

    def gone(self, *keys: TaskKey) -> None:
        self.settle(Observed(gone=frozenset(keys)))

    def reported(self, key: TaskKey, report: Report, *, attempt: int | None = None) -> None:
        number = self.tasks[key].attempt if attempt is None else attempt
        self.settle(Observed(reports={key: (number, report)}))

    def refused(self, key: TaskKey, reason: Reason, *, attempt: int | None = None) -> None:
        number = self.tasks[key].attempt if attempt is None else attempt
        refusal = Refusal(attempt=number, reason=reason, message="the API server says no")
        self.settle(Observed(refusals={key: refusal}))

    # --- what became of it

    @property
    def phase(self) -> Phase:
        return self.run.phase

    @property
    def open(self) -> list[TaskKey]:
        """Tasks with an open attempt."""
        return sorted(key for (key, _), attempt in self.attempts.items() if attempt.closed_at is None)

    def phases(self) -> dict[str, str]:
        return {name: record.phase.value for name, record in self.steps.items()}

    def types(self, *, since: int = 0) -> list[str]:
        """Types of the events, from a number on."""
        return [event.type for event in self.events[since:]]

    def attempts_of(self, key: TaskKey) -> list[AttemptRecord]:
        return [attempt for (other, _), attempt in sorted(self.attempts.items()) if other == key]


def _stored(record: Any) -> Any:
    """A record whose JSON was written and read."""
    names = [name for name in ("spec", "outputs", "input", "output") if hasattr(record, name)]
    return replace(record, **{name: orjson.loads(orjson.dumps(getattr(record, name))) for name in names})


SUCCESS = Report(outcome="Succeeded", output={"n": 1}, at=START)
FAILURE = Report(outcome="Failed", message="no luck", at=START)
FATAL = Report(outcome="Failed", message="no hope", retryable=False, at=START)
