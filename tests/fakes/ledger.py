"""The ledger in memory: the effect of each SQL statement, at one moment, with the same refusals.

Commits leave columns alone that agents write, and all fences hold, as in `perdure/ledger/queries.sql`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from perdure.domain.events import EventType
from perdure.domain.names import shard_of
from perdure.domain.payloads import Payload, Source, value_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    ChildClaim,
    Commit,
    Committed,
    Deposed,
    LiveEntry,
    LivePage,
    Report,
    RunRecord,
    RunState,
    RunUpdates,
    Signal,
    StepRecord,
    Superseded,
    Suspect,
    TaskKey,
    TaskRecord,
    VersionConflict,
    Vitals,
    Wake,
)
from perdure.ledger.types import AgentSession, Overtaken, RunEnded, UnknownRun
from tests.fakes.faults import Faults
from tests.fakes.guarantees import Guarantees
from tests.fakes.network import OUTSIDE, Server, no_connection


@dataclass(slots=True, eq=False)
class Saved:
    """A row of `checkpoint`."""

    sequence: int
    attempt: int
    order: int | None
    #: The last part of the work in it; None if no attempt can resume from it.
    part: int | None
    text: str
    label: str | None = None


class WrittenEvent(NamedTuple):
    """A row of `event`, as far as tests read it."""

    type: EventType
    task: str | None
    time: datetime


@dataclass(slots=True, eq=False)
class Rows:
    """All rows of one run."""

    run: RunRecord
    steps: dict[str, StepRecord] = field(default_factory=dict)
    tasks: dict[TaskKey, TaskRecord] = field(default_factory=dict)
    attempts: dict[tuple[TaskKey, int], AttemptRecord] = field(default_factory=dict)
    checkpoints: dict[TaskKey, list[Saved]] = field(default_factory=dict)
    #: How many checkpoints each task ever had, and the newest order of the attempt that wrote last.
    numbers: dict[TaskKey, int] = field(default_factory=dict)
    orders: dict[TaskKey, tuple[int, int]] = field(default_factory=dict)
    vitals: dict[TaskKey, Vitals] = field(default_factory=dict)
    #: By id, in the order in which they were sent; and the ids of those that a decision consumed.
    signals: dict[str, Signal] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    #: Types and times of its events.
    events: list[WrittenEvent] = field(default_factory=list)

    @property
    def kept(self) -> int:
        retention: Any = self.run.spec.get("retention") or {}
        return int(retention.get("checkpointsPerTask", 10))


class FakeLedger(Server):
    """The server; every method is one statement."""

    def __init__(self, faults: Faults, guarantees: Guarantees, maker_of: Callable[[str], str | None]) -> None:
        """`maker_of` returns the uid of the run that created an object, by the object's uid."""
        super().__init__("ledger", faults, no_connection)
        self._guarantees = guarantees
        self._maker_of = maker_of
        self.epoch = 0
        self.rows: dict[str, Rows] = {}
        self.forgotten: set[str] = set()
        self.outbox: list[tuple[str, int]] = []
        self.suspects: dict[str, Suspect] = {}
        #: By root run, the attempts whose children are counted.
        self.descendants: dict[str, set[tuple[str, TaskKey, int]]] = {}
        self.cache: dict[tuple[str, str], tuple[TaskRecord, RunRecord]] = {}
        self.listeners: list[Callable[[str | None], None]] = []
        self._by_pod: dict[str, tuple[str, TaskKey, int]] = {}

    # --- the operator's side

    def take_epoch(self) -> int:
        self.epoch += 1
        self._guarantees.epoch_taken(self.epoch)
        return self.epoch

    def live_index(self) -> list[LiveEntry]:
        live = (rows for rows in self.rows.values() if not rows.run.phase.terminal)
        return [
            LiveEntry(
                uid=rows.run.uid,
                kind=rows.run.kind,
                namespace=rows.run.namespace,
                name=rows.run.name,
                open=sum(attempt.closed_at is None for attempt in rows.attempts.values()),
                size=1024 * (1 + len(rows.tasks)),
            )
            for rows in sorted(live, key=lambda rows: (rows.run.created_at, rows.run.uid))
        ]

    def load_page(self, uids: Sequence[str]) -> LivePage:
        known = (self.rows[uid] for uid in uids if uid in self.rows)
        states = tuple(_state(rows) for rows in known if not rows.run.phase.terminal)
        return LivePage(states=states, unreadable={})

    def load(self, uid: str) -> RunState | None:
        return _state(self.rows[uid]) if uid in self.rows else None

    def outcomes(self, uids: Sequence[str]) -> dict[str, RunRecord]:
        return {uid: _read(replace(self.rows[uid].run, spec={})) for uid in uids if uid in self.rows}

    def commit(self, commit: Commit, *, epoch: int) -> Committed:
        self.check_epoch(epoch)
        uid = commit.run.uid
        rows = self.rows.get(uid)
        self.check_version(rows, commit)
        commit = self._whole(commit, rows)
        self._guarantees.committed(commit, epoch=epoch)
        if rows is None:
            rows = self.rows[uid] = Rows(replace(commit.run, version=0, last_sequence=0))
        version = rows.run.version + 1
        run = replace(commit.run, spec=rows.run.spec, version=version, last_sequence=rows.run.last_sequence)
        rows.run = run
        for step in commit.steps:
            rows.steps[step.name] = step
        for task in commit.tasks:
            rows.tasks[task.key] = task
            self._remember(run, task)
        for attempt in commit.attempts:
            known = rows.attempts.get((attempt.key, attempt.number))
            if known is not None:
                attempt = replace(attempt, pod_uid=attempt.pod_uid or known.pod_uid, report=known.report)
            rows.attempts[attempt.key, attempt.number] = attempt
        rows.consumed.update(commit.consumed)
        for event in commit.events:
            self.write_event(rows, event.type, event.task, event.time)
        self._guarantees.sequence_given(uid, rows.run.last_sequence)
        return Committed(version=version, last_sequence=rows.run.last_sequence)

    def _whole(self, commit: Commit, rows: Rows | None) -> Commit:
        """The commit with all bodies: a payload without one is here already, or is copied from its source."""
        tasks = []
        for task in commit.tasks:
            before = None if rows is None else rows.tasks.get(task.key)
            input = self._body(commit, task, task.input, None if before is None else before.input)
            output = self._body(commit, task, task.output, None if before is None else before.output)
            tasks.append(replace(task, input=input, output=output))
        outputs = commit.run.outputs
        if outputs is not None and outputs.body is None:
            assert rows is not None
            outputs = rows.run.outputs
        return replace(commit, run=replace(commit.run, outputs=outputs), tasks=tuple(tasks))

    def _body(
        self, commit: Commit, task: TaskRecord, payload: Payload | None, known: Payload | None
    ) -> Payload | None:
        if payload is None or payload.body is not None:
            return payload
        if payload.source is not None:
            kind, ref = payload.source
            if kind == "report":
                report = self.rows[commit.run.uid].attempts[task.key, int(ref)].report
                known = None if report is None else report.output
            elif kind == "run":
                known = self.rows[ref].run.outputs if ref in self.rows else None
            else:
                kept = self.cache.get((commit.run.namespace, ref))
                known = None if kept is None else kept[0].output
            if known is None:
                raise VersionConflict(f"{commit.run.uid}: a payload is no longer where it was")
        assert known is not None, "a payload without a body that the ledger does not have"
        assert (known.size, known.digest) == (payload.size, payload.digest)
        return known

    def task_payloads(self, uid: str, keys: Sequence[TaskKey], which: str) -> dict[TaskKey, bytes]:
        rows = self.rows.get(uid)
        tasks = {} if rows is None else rows.tasks
        found = {key: getattr(tasks[key], which) for key in keys if key in tasks}
        return {key: payload.body for key, payload in found.items() if payload is not None}

    def run_outputs(self, uid: str) -> bytes | None:
        outputs = self.rows[uid].run.outputs if uid in self.rows else None
        return None if outputs is None else outputs.body

    def check_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise Deposed(f"epoch {epoch} is over")

    def check_version(self, rows: Rows | None, commit: Commit) -> None:
        if (0 if rows is None else rows.run.version) != commit.run.version:
            raise VersionConflict(commit.run.uid)

    def write_event(self, rows: Rows, type: EventType, task: str | None, at: datetime) -> None:
        sequence = rows.run.last_sequence + 1
        rows.run = replace(rows.run, last_sequence=sequence)
        rows.events.append(WrittenEvent(type, task, at))
        self._guarantees.event_written(rows.run.uid, sequence)
        self.outbox.append((rows.run.uid, sequence))

    def fence_commits(self, uid: str, *, epoch: int) -> None:
        self.check_epoch(epoch)
        rows = self.rows.get(uid)
        if rows is not None:
            rows.run = replace(rows.run, version=rows.run.version + 1)
            self._guarantees.commits_fenced(uid)

    def record_pod(self, uid: str, attempt: AttemptRecord, *, pod_uid: str, epoch: int) -> None:
        self.check_epoch(epoch)
        rows = self.rows[uid]
        place = attempt.key, attempt.number
        known = rows.attempts.get(place)
        if known is None or known.closed_at is not None:
            raise VersionConflict(f"no open attempt {place}")
        rows.attempts[place] = replace(known, pod_uid=pod_uid)
        self._by_pod[pod_uid] = uid, *place
        self._guarantees.pod_recorded(uid, *place, pod_uid, owner=self._maker_of(pod_uid))

    def claim_child(
        self, parent: RunRecord, attempt: AttemptRecord, *, owner_uid: str | None, most: int
    ) -> ChildClaim:
        mine = self.rows[parent.uid].attempts.get((attempt.key, attempt.number))
        if mine is None or mine.closed_at is not None:
            raise VersionConflict(f"no open attempt {attempt.key} {attempt.number}")
        depth, top = 0, parent.uid
        above = {made.pod_uid: uid for uid, rows in self.rows.items() for made in rows.attempts.values()}
        owner = self.rows.get(owner_uid or "")
        if owner is not None and owner.run.namespace == parent.namespace:
            names = {made.pod_name for made in owner.attempts.values()}
            if parent.name in names:
                above.setdefault(parent.uid, owner.run.uid)
        while top in above and depth < 33:
            depth, top = depth + 1, above[top]
        counted = self.descendants.setdefault(top, set())
        place = parent.uid, attempt.key, attempt.number
        if place not in counted and len(counted) < most:
            counted.add(place)
        return ChildClaim(granted=place in counted, depth=depth)

    def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        rows = self.rows.get(uid)
        if rows is None:
            return RunUpdates(version=0, reports={}, vitals=())
        reports = {
            key: (number, _head(number, attempt.report))
            for (key, number), attempt in rows.attempts.items()
            if attempt.closed_at is None and attempt.report is not None
        }
        vitals = tuple(found for found in rows.vitals.values() if since is None or found.changed_at > since)
        signals: dict[TaskKey, tuple[Signal, ...]] = {}
        for id, signal in rows.signals.items():
            if id not in rows.consumed:
                signals[signal.key] = (*signals.get(signal.key, ()), signal)
        return RunUpdates(version=rows.run.version, reports=reports, signals=signals, vitals=vitals)

    def expired(self, now: datetime, *, limit: int) -> list[tuple[str, str, str, str]]:
        return [
            (rows.run.uid, str(rows.run.kind), rows.run.namespace, rows.run.name)
            for rows in self.rows.values()
            if rows.run.phase.terminal and rows.run.expires_at is not None and rows.run.expires_at <= now
        ][:limit]

    def forget(self, uids: Sequence[str], *, epoch: int) -> None:
        self.check_epoch(epoch)
        for uid in uids:
            if uid in self.rows and self.rows[uid].run.phase.terminal:
                self._guarantees.history_forgotten(uid)
                del self.rows[uid]
                self.forgotten.add(uid)

    def cached(self, namespace: str, keys: Sequence[str], now: datetime) -> dict[str, CachedResult]:
        found = ((key, self.cache.get((namespace, key))) for key in keys)
        return {
            key: CachedResult(output=_cached(kept[0].output, key), workflow=kept[1].name, task=kept[0].name)
            for key, kept in found
            if kept is not None and kept[0].cache_until is not None and kept[0].cache_until > now
        }

    def forget_cache(self, now: datetime, *, limit: int, epoch: int) -> int:
        self.check_epoch(epoch)
        old = [
            place for place, (task, _) in self.cache.items() if task.cache_until and task.cache_until <= now
        ]
        for place in old[:limit]:
            del self.cache[place]
        return len(old[:limit])

    # --- the agents' side

    def attempt_for_pod(self, namespace: str, pod_uid: str) -> AgentSession | None:
        place = self._by_pod.get(pod_uid)
        if place is None or place[0] not in self.rows:
            return None
        uid, key, number = place
        rows = self.rows[uid]
        attempt = rows.attempts[key, number]
        if attempt.pod_uid != pod_uid or rows.run.namespace != namespace:
            return None
        task = rows.tasks[key]
        newest = self.newest(rows, key)
        return AgentSession(
            workflow_uid=uid,
            kind=rows.run.kind,
            namespace=namespace,
            run_name=rows.run.name,
            shard=shard_of(uid),
            key=key,
            task_name=task.name,
            attempt=number,
            pod_name=attempt.pod_name,
            open=self.is_open(rows, key, number),
            input=value_of(task.input),
            checkpoint_sequence=None if newest is None else newest.sequence,
            checkpoints_per_task=rows.kept,
        )

    def write_checkpoint(
        self,
        session: AgentSession,
        pod_uid: str,
        part: int | None,
        text: str,
        *,
        order: int | None,
        label: str | None = None,
        now: datetime,
    ) -> int:
        rows, key = self._fenced(session)
        attempt, newest = rows.orders.get(key, (0, 0))
        if order is not None and attempt == session.attempt and newest >= order:
            for saved in rows.checkpoints.get(key, ()):
                if (saved.attempt, saved.order, saved.text) == (session.attempt, order, text):
                    return saved.sequence
            raise Overtaken(f"a newer checkpoint than {order}")
        self._guarantees.agent_wrote("checkpoint", rows.run.uid, key, session.attempt, pod_uid, at=now)
        if part is not None and text == "part":
            self._guarantees.saved(rows.run.uid, key, part)
        sequence = rows.numbers[key] = rows.numbers.get(key, 0) + 1
        if order is not None:
            rows.orders[key] = session.attempt, order
        kept = rows.checkpoints.setdefault(key, [])
        kept.append(Saved(sequence, session.attempt, order, part, text, label))
        self.prune(rows, key)
        known = rows.vitals.get(key) or Vitals(key=key, attempt=session.attempt, changed_at=now)
        vitals = replace(known, attempt=session.attempt, changed_at=now)
        if part is not None:
            vitals = replace(vitals, checkpoint_sequence=sequence, checkpoint_label=label, checkpoint_at=now)
        rows.vitals[key] = vitals
        self.write_event(rows, EventType.TASK_CHECKPOINTED, session.task_name, now)
        self.wake(Wake(rows.run.uid, reported=False))
        return sequence

    def prune(self, rows: Rows, key: TaskKey) -> None:
        """Keep the newest few checkpoints, and always the newest that an attempt can resume from."""
        kept, newest = rows.checkpoints[key], self.newest(rows, key)
        rows.checkpoints[key] = [
            saved for saved in kept if saved.sequence > rows.numbers[key] - rows.kept or saved is newest
        ]

    def open_latest(self, session: AgentSession) -> int:
        """The last part of the work that was saved; 0 if none was."""
        rows = self.rows.get(session.workflow_uid)
        if rows is None:
            return 0
        newest = self.newest(rows, session.key)
        part = 0 if newest is None or newest.part is None else newest.part
        self._guarantees.restored(rows.run.uid, session.key, part)
        return part

    def heartbeat(self, session: AgentSession, pod_uid: str, now: datetime) -> None:
        rows, key = self._fenced(session)
        self._guarantees.agent_wrote("heartbeat", rows.run.uid, key, session.attempt, pod_uid, at=now)
        known = rows.vitals.get(key) or Vitals(key=key, attempt=session.attempt, changed_at=now)
        rows.vitals[key] = replace(known, attempt=session.attempt, changed_at=now)

    def report(self, session: AgentSession, pod_uid: str, report: Report) -> None:
        rows = self.rows.get(session.workflow_uid)
        place = session.key, session.attempt
        if rows is not None and place in rows.attempts and rows.attempts[place].report is not None:
            return  # the response to the first request was lost
        rows, key = self._fenced(session)
        self._guarantees.agent_wrote("report", rows.run.uid, key, session.attempt, pod_uid, at=report.at)
        self._guarantees.reported(rows.run.uid, *place, report)
        rows.attempts[place] = replace(rows.attempts[place], report=report)
        rows.run = replace(rows.run, version=rows.run.version + 1)
        self.wake(Wake(rows.run.uid, reported=True))

    def send_signal(self, uid: str, signal: Signal) -> bool:
        rows = self.rows.get(uid)
        if rows is None:
            raise UnknownRun(uid)
        if signal.id in rows.signals:
            return False  # the response to the first request was lost
        if rows.run.phase.terminal:
            raise RunEnded(uid)
        rows.signals[signal.id] = signal
        rows.run = replace(rows.run, version=rows.run.version + 1)
        self._guarantees.signal_sent(uid, signal)
        self.wake(Wake(uid, reported=True))
        return True

    def is_open(self, rows: Rows, key: TaskKey, number: int) -> bool:
        """The agents' fence."""
        attempt = rows.attempts.get((key, number))
        return attempt is not None and attempt.closed_at is None and rows.tasks[key].attempt == number

    def _fenced(self, session: AgentSession) -> tuple[Rows, TaskKey]:
        rows = self.rows.get(session.workflow_uid)
        if rows is None or not self.is_open(rows, session.key, session.attempt):
            raise Superseded(f"attempt {session.attempt} of {session.task_name} is over")
        return rows, session.key

    # --- events and wakes

    def outbox_batch(self) -> list[tuple[str, int]]:
        return self.outbox[:20]

    def outbox_done(self, rows: Sequence[tuple[str, int]]) -> None:
        done = set(rows)
        self.outbox = [row for row in self.outbox if row not in done]

    def wake(self, wake: Wake | None) -> None:
        """Notify the listeners; a lost connection loses notifications."""
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            if not (self.away or self.faults.happens("wake lost")):
                loop.call_later(self.faults.between(0.0005, 0.01), listener, wake, context=OUTSIDE)

    def come_back(self) -> None:
        super().come_back()
        # Listeners reconnect; None says that notifications may have been lost.
        for listener in self.listeners:
            asyncio.get_running_loop().call_later(0.1, listener, None, context=OUTSIDE)

    # --- underneath

    def newest(self, rows: Rows, key: TaskKey, label: str | None = None) -> Saved | None:
        """The checkpoint that an attempt resumes from, of this label if one is given."""
        fitting = (saved for saved in reversed(rows.checkpoints.get(key, ())) if saved.part is not None)
        return next((saved for saved in fitting if label in (None, saved.label)), None)

    def _remember(self, run: RunRecord, task: TaskRecord) -> None:
        if task.cache_key is None or task.cache_until is None or task.finished_at is None:
            return
        if task.phase is Phase.SUCCEEDED and task.reason is not Reason.CACHED:
            self.cache[run.namespace, task.cache_key] = task, run


def _state(rows: Rows) -> RunState:
    newest: dict[TaskKey, AttemptRecord] = {}
    for (key, number), attempt in rows.attempts.items():
        if key not in newest or newest[key].number < number:
            newest[key] = attempt
    tasks = {
        key: replace(task, input=_settled(task.input), output=_settled(task.output))
        for key, task in rows.tasks.items()
    }
    attempts = {
        key: replace(
            attempt, report=None if attempt.report is None else _head(attempt.number, attempt.report)
        )
        for key, attempt in newest.items()
    }
    return RunState(run=_read(rows.run), steps=dict(rows.steps), tasks=tasks, attempts=attempts)


def _settled(payload: Payload | None) -> Payload | None:
    return None if payload is None else payload.settled()


def _head(number: int, report: Report) -> Report:
    """A report as it is read: of a large output, only where the ledger has it."""
    output = None if report.output is None else report.output.at(Source("report", str(number)))
    return replace(report, output=output)


def _read(run: RunRecord) -> RunRecord:
    return replace(run, outputs=None if run.outputs is None else run.outputs.at(Source("run", run.uid)))


def _cached(payload: Payload | None, key: str) -> Payload | None:
    return None if payload is None else payload.at(Source("cache", key))
