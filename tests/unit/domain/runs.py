"""A run that is taken forward by decisions, in a ledger of plain dictionaries.

Every decision that is made here is also checked: made twice it is the same, made from records that were
written and read again it is the same, and what it commits keeps the rules (`rules.py`).
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from tests.support.echo import WITH_ECHO
from tests.support.shown import shown
from tests.unit.domain.answering import BODIES, answered
from tests.unit.domain.clock import START
from tests.unit.domain.rules import check_commit, check_decision

from perdure.domain.engine.decide import Decision, decide
from perdure.domain.engine.observed import ChildRun, Observed, Refusal
from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.pod_facts import ContainerExit, PodFacts
from perdure.domain.engine.view import RunView
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    Commit,
    Committed,
    DesiredState,
    PendingEvent,
    Report,
    RunState,
    Signal,
    StepRecord,
    TaskKey,
    TaskRecord,
)

#: The indexes that a view keeps next to the records: each must follow from the records.
INDEXES = (
    "run",
    "steps",
    "tasks",
    "attempts",
    "live",
    "delayed",
    "ready",
    "open",
    "slots",
    "idle",
    "working",
    "payload_bytes",
    "attempts_total",
    "failing",
)


class Run:
    """A run with its history. `view` is what the operator holds, the rest what the ledger would."""

    def __init__(self, view: RunView) -> None:
        self.view = view
        self.now = START
        #: The records as the ledger has them, and as tests compare them: with the values of payloads.
        self._run = view.run
        self._tasks: dict[TaskKey, TaskRecord] = {}
        self.run = shown(view.run)
        self._stored_plan = compile_plan(_stored(view.run).spec, WITH_ECHO)
        self.steps: dict[str, StepRecord] = {}
        self.tasks: dict[TaskKey, TaskRecord] = {}
        self.attempts: dict[tuple[TaskKey, int], AttemptRecord] = {}
        self.events: list[PendingEvent] = []
        # The facts that every decision gets next to the changes: the desired state, the number of attempts
        # that may be open at once (None for any number), cached results by key, the newest signs of life.
        self.desired: DesiredState = "Running"
        self.limit: int | None = None
        self.cache: dict[str, CachedResult] = {}
        self.signs: dict[TaskKey, tuple[int, datetime]] = {}
        #: Signals that no decision has consumed.
        self.inbox: dict[TaskKey, tuple[Signal, ...]] = {}
        #: Whether pods are noted as soon as their attempts are committed, as they are if nothing goes wrong.
        self.notes_pods = False
        #: Keys that were asked for.
        self.asked: list[dict[TaskKey, str]] = []
        self.wants = 0
        self.requeue_at: datetime | None = None

    # --- deciding

    def decide(self, observed: Observed | None = None, *, now: datetime | None = None) -> Decision:
        """One decision, checked and committed."""
        self.now = now or self.now
        observed = self.standing(observed or Observed())
        reloaded = self.reloaded()
        for index in INDEXES:
            assert getattr(self.view, index) == getattr(reloaded, index), index
        assert self.view.delays.ranks == reloaded.delays.ranks
        assert self.view.deadlines.ranks == reloaded.deadlines.ranks
        assert {name: +counts for name, counts in self.view.counts.items()} == reloaded.counts
        observed = answered(reloaded, answered(self.view, observed, self.now), self.now)
        decision = decide(self.view, observed, self.now)
        assert decide(self.view, observed, self.now) == decision
        assert decide(reloaded, observed, self.now) == decision
        check_decision(self, observed, decision)
        if decision.commit is not None:
            check_commit(self, observed, decision)
            self._commit(decision.commit)
            if self.notes_pods:
                self.note_pods()
        self.wants, self.requeue_at = decision.wants, decision.requeue_at
        return decision

    def settle(self, observed: Observed | None = None, *, now: datetime | None = None) -> None:
        """Decisions until nothing is left to start at once, as in the control loop."""
        decision = self.decide(observed, now=now)
        while decision.more or decision.questions or (decision.wants and self.free_slots()):
            if decision.questions:
                self.asked.append(dict(decision.questions))
            answers = {key: self.cache.get(cache_key) for key, cache_key in decision.questions.items()}
            decision = self.decide(Observed(cached=answers))
        due = decision.requeue_at
        leaves = observed is not None and any(pod.deletion is not None for pod in observed.pods.values())
        assert self.decide().commit is None, "nothing is new, so nothing is to be decided"
        assert leaves or self.requeue_at == due, "a decision knows the times that it sets"

    def standing(self, observed: Observed) -> Observed:
        """What is observed, and what is so in every decision."""
        return replace(
            observed,
            desired=self.desired,
            slots=self.free_slots(),
            signs=observed.signs or self.signs,
            signals=self.inbox,
        )

    def free_slots(self) -> int | None:
        """How many attempts may be opened; None for any number."""
        return None if self.limit is None else max(0, self.limit - self.view.slots)

    def want(self, desired: DesiredState, *, now: datetime | None = None) -> None:
        """A user changes `desiredState`."""
        self.desired = desired
        self.settle(now=now)

    def note_pods(self, *keys: TaskKey) -> None:
        """The objects of these, or all, open attempts are made, and the ledger knows them."""
        for key in keys or sorted(self.view.open):
            attempt = self.view.attempts[key]
            if attempt.pod_uid is None:
                self.view.note_pod(key, f"uid-{attempt.pod_name}")
                self.attempts[key, attempt.number] = self.view.attempts[key]

    def reloaded(self) -> RunView:
        """The view of an operator that has just read the ledger."""
        state = RunState(
            run=_stored(self._run),
            steps=dict(self.steps),
            tasks={key: _stored(task) for key, task in self._tasks.items()},
            attempts={key: attempt for (key, _), attempt in sorted(self.attempts.items())},
        )
        return RunView(self._stored_plan, state)

    def _commit(self, commit: Commit) -> None:
        committed = Committed(
            version=self.run.version + 1, last_sequence=self.run.last_sequence + len(commit.events)
        )
        self.view.apply(commit, committed)
        for record in (commit.run, *commit.tasks):
            for payload in (getattr(record, name, None) for name in ("input", "output", "outputs")):
                if payload is not None and payload.body is not None:
                    BODIES[payload.digest] = payload.body
        self._run = replace(commit.run, version=committed.version, last_sequence=committed.last_sequence)
        self.run = shown(self._run, BODIES)
        self.steps |= {step.name: step for step in commit.steps}
        self._tasks |= {task.key: task for task in commit.tasks}
        self.tasks |= {task.key: shown(task, BODIES) for task in commit.tasks}
        self.attempts |= {(attempt.key, attempt.number): attempt for attempt in commit.attempts}
        self.events += commit.events
        known = {signal.id for signals in self.inbox.values() for signal in signals}
        assert known >= set(commit.consumed), "only signals of the inbox are consumed"
        self.inbox = {
            key: tuple(signal for signal in signals if signal.id not in commit.consumed)
            for key, signals in self.inbox.items()
        }

    # --- what is observed

    def pod(self, key: TaskKey, *, attempt: int | None = None, **facts: Any) -> PodFacts:
        """The pod of a task's newest attempt; it runs unless `facts` say otherwise."""
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

    def child(self, key: TaskKey, phase: Phase, *, note: bool = True, **facts: Any) -> ChildRun:
        """The child of a task's newest attempt; it has started unless it is Pending."""
        if note:
            self.note_pods(key)
        started_at = None if phase is Phase.PENDING else self.now
        uid = f"uid-{self.view.attempts[key].pod_name}"
        if "outputs" in facts:
            facts["outputs"] = payload_of(facts["outputs"])
        return ChildRun(**{"uid": uid, "phase": phase, "started_at": started_at} | facts)

    def child_is(self, key: TaskKey, phase: Phase, **facts: Any) -> None:
        self.settle(Observed(children={key: self.child(key, phase, **facts)}))

    def send(self, key: TaskKey, name: str, payload: Any = None) -> Signal:
        """A signal comes into the inbox, and no decision has seen it."""
        number = sum(map(len, self.inbox.values())) + len(self.events) + 1
        signal = Signal(id=f"s{number}", key=key, name=name, payload=payload, sender="ada", at=self.now)
        self.inbox[key] = (*self.inbox.get(key, ()), signal)
        return signal

    def signalled(self, key: TaskKey, name: str, payload: Any = None) -> None:
        self.send(key, name, payload)
        self.settle()

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

    def moment(self, seconds: float) -> datetime:
        """So much later than now."""
        return self.now + timedelta(seconds=seconds)

    def attempts_of(self, key: TaskKey) -> list[AttemptRecord]:
        return [attempt for (other, _), attempt in sorted(self.attempts.items()) if other == key]


def _stored(record: Any) -> Any:
    """A record whose JSON was written and read."""
    names = [name for name in ("spec", "last_failure") if hasattr(record, name)]
    return replace(record, **{name: orjson.loads(orjson.dumps(getattr(record, name))) for name in names})


SUCCESS = Report(outcome="Succeeded", output=payload_of({"n": 1}), at=START)
FAILURE = Report(outcome="Failed", message="no luck", at=START)
FATAL = Report(outcome="Failed", message="no hope", retryable=False, at=START)
