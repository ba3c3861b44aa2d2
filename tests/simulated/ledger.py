"""The ledger in memory, with the same refusals as the real one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from perdure.domain.phases import Phase, Reason, check_transition
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    Commit,
    Committed,
    Deposed,
    LedgerUnavailable,
    PendingEvent,
    Report,
    RunRecord,
    RunState,
    RunUpdates,
    Signal,
    StepRecord,
    Superseded,
    TaskKey,
    TaskRecord,
    VersionConflict,
    Vitals,
    Wake,
)
from perdure.ledger.types import CHECKPOINTS_PER_TASK, Overtaken, RunEnded, UnknownRun
from tests.simulated.chance import Chance


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedCheckpoint:
    """One that is kept."""

    sequence: int
    attempt: int
    data: bytes
    label: str | None
    recoverable: bool
    order: int | None


class SimulatedLedger:
    """Implements LedgerPort. `outage` makes every call fail."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self.epoch = 0
        self.outage = False
        self.runs: dict[str, RunRecord] = {}
        self.steps: dict[str, dict[str, StepRecord]] = defaultdict(dict)
        self.tasks: dict[str, dict[TaskKey, TaskRecord]] = defaultdict(dict)
        self.attempts: dict[str, dict[tuple[TaskKey, int], AttemptRecord]] = defaultdict(dict)
        self.events: dict[str, list[PendingEvent]] = defaultdict(list)
        #: By namespace and key: the task that left the result, and the run's name.
        self.cache: dict[tuple[str, str], tuple[TaskRecord, str]] = {}
        self.vitals: dict[str, dict[TaskKey, Vitals]] = defaultdict(dict)
        self.checkpoints: dict[str, dict[TaskKey, list[SimulatedCheckpoint]]] = defaultdict(
            lambda: defaultdict(list)
        )
        #: By run and task: the number of the newest checkpoint.
        self.sequences: dict[tuple[str, TaskKey], int] = {}
        #: By run and task: the newest order of a checkpoint, and the attempt that it is of.
        self.orders: dict[tuple[str, TaskKey], tuple[int, int]] = {}
        #: By run and id; and the ids of those that a decision consumed.
        self.signals: dict[str, dict[str, Signal]] = defaultdict(dict)
        self.consumed: dict[str, set[str]] = defaultdict(set)
        self.violations: list[AssertionError] = []
        self._wakes: list[asyncio.Queue[Wake | None]] = []

    # --- the operator's side

    async def take_epoch(self, holder: str) -> int:
        async with self._call():
            self.epoch += 1
            return self.epoch

    async def load_live(self) -> list[RunState]:
        async with self._call():
            return [self._state(uid) for uid, run in self.runs.items() if not run.phase.terminal]

    async def load(self, uid: str) -> RunState | None:
        async with self._call():
            return self._state(uid) if uid in self.runs else None

    async def outcomes(self, uids: Sequence[str]) -> dict[str, RunRecord]:
        async with self._call():
            return {uid: replace(self.runs[uid], spec={}) for uid in uids if uid in self.runs}

    async def commit(self, commit: Commit, *, epoch: int) -> Committed:
        async with self._call():
            if epoch != self.epoch:
                raise Deposed(f"epoch {epoch} is over")
            uid = commit.run.uid
            before = self.runs.get(uid)
            if (before.version if before else 0) != commit.run.version:
                raise VersionConflict(uid)
            try:
                self._check(commit, before)
            except AssertionError as violation:
                # The operator survives its own faults, so this must be remembered for the test.
                self.violations.append(violation)
                raise
            sequence = (before.last_sequence if before else 0) + len(commit.events)
            version = commit.run.version + 1
            self.runs[uid] = replace(commit.run, version=version, last_sequence=sequence)
            for step in commit.steps:
                self.steps[uid][step.name] = step
            for task in commit.tasks:
                self.tasks[uid][task.key] = task
            for attempt in commit.attempts:
                self.attempts[uid][attempt.key, attempt.number] = attempt
            self._remember(commit)
            self.events[uid] += commit.events
            self.consumed[uid].update(commit.consumed)
            return Committed(version=version, last_sequence=sequence)

    async def fence_commits(self, uid: str, *, epoch: int) -> None:
        async with self._call():
            if epoch != self.epoch:
                raise Deposed(f"epoch {epoch} is over")
            if uid in self.runs:
                self.runs[uid] = replace(self.runs[uid], version=self.runs[uid].version + 1)

    async def record_pod(self, uid: str, attempt: AttemptRecord, *, pod_uid: str, epoch: int) -> None:
        async with self._call():
            if epoch != self.epoch:
                raise Deposed(f"epoch {epoch} is over")
            place = attempt.key, attempt.number
            known = self.attempts[uid][place]
            if known.closed_at is None and known.pod_uid is None:
                self.attempts[uid][place] = replace(known, pod_uid=pod_uid)

    async def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        async with self._call():
            reports = {
                key: (number, attempt.report)
                for (key, number), attempt in self.attempts[uid].items()
                if attempt.closed_at is None and attempt.report is not None
            }
            vitals = tuple(
                found for found in self.vitals[uid].values() if since is None or found.changed_at > since
            )
            signals: dict[TaskKey, tuple[Signal, ...]] = {}
            for id, signal in self.signals[uid].items():
                if id not in self.consumed[uid]:
                    signals[signal.key] = (*signals.get(signal.key, ()), signal)
            version = self.runs[uid].version
            return RunUpdates(version=version, reports=reports, signals=signals, vitals=vitals)

    async def expired(self, now: datetime, *, limit: int) -> list[tuple[str, str, str, str]]:
        async with self._call():
            return [
                (run.uid, run.kind, run.namespace, run.name)
                for run in self.runs.values()
                if run.phase.terminal and run.expires_at is not None and run.expires_at <= now
            ][:limit]

    async def forget(self, uids: Sequence[str], *, epoch: int) -> None:
        async with self._call():
            if epoch != self.epoch:
                raise Deposed(f"epoch {epoch} is over")
            for uid in uids:
                if uid in self.runs and self.runs[uid].phase.terminal:
                    del self.runs[uid]
                    self.signals.pop(uid, None)

    async def cached(self, namespace: str, keys: Sequence[str], now: datetime) -> dict[str, CachedResult]:
        async with self._call():
            found = ((key, self.cache.get((namespace, key))) for key in keys)
            return {
                key: CachedResult(output=kept[0].output, workflow=kept[1], task=kept[0].name)
                for key, kept in found
                if kept is not None and _until(kept[0]) > now
            }

    async def forget_cache(self, now: datetime, *, limit: int, epoch: int) -> int:
        async with self._call():
            if epoch != self.epoch:
                raise Deposed(f"epoch {epoch} is over")
            old = sorted((_until(task), place) for place, (task, _) in self.cache.items())
            gone = [place for until, place in old if until <= now][:limit]
            for place in gone:
                del self.cache[place]
            return len(gone)

    async def wakes(self) -> AsyncGenerator[Wake | None, None]:
        queue: asyncio.Queue[Wake | None] = asyncio.Queue()
        queue.put_nowait(None)
        self._wakes.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._wakes.remove(queue)

    # --- the agents' side

    def report(self, uid: str, key: TaskKey, number: int, report: Report, *, pod_uid: str) -> None:
        """What the gateway does with an agent's report. Raises Superseded, LedgerUnavailable.

        A pod whose uid is not noted yet is told to come again, as if the ledger were away.
        """
        if self.outage:
            raise LedgerUnavailable("outage")
        attempt = self.attempts[uid].get((key, number))
        if attempt is None or attempt.closed_at is not None:
            raise Superseded(f"{key} attempt {number}")
        if attempt.pod_uid != pod_uid:
            raise LedgerUnavailable("not ready")
        if attempt.report is None:
            self.attempts[uid][key, number] = replace(attempt, report=report)
            run = self.runs[uid]
            self.runs[uid] = replace(run, version=run.version + 1)
        if not self._chance.happens(self._chance.odds.event_lost):
            self.wake(Wake(uid, reported=True))

    def send_signal(self, uid: str, signal: Signal) -> bool:
        """What the ledger does with a signal. Raises UnknownRun, RunEnded, LedgerUnavailable."""
        if self.outage:
            raise LedgerUnavailable("outage")
        if uid not in self.runs:
            raise UnknownRun(uid)
        if signal.id in self.signals[uid]:
            return False
        run = self.runs[uid]
        if run.phase.terminal:
            raise RunEnded(uid)
        self.signals[uid][signal.id] = signal
        self.runs[uid] = replace(run, version=run.version + 1)
        if not self._chance.happens(self._chance.odds.event_lost):
            self.wake(Wake(uid, reported=True))
        return True

    def sign_of_life(self, uid: str, key: TaskKey, number: int, at: datetime) -> None:
        """What the gateway does with a heartbeat. Raises Superseded, LedgerUnavailable."""
        if self.outage:
            raise LedgerUnavailable("outage")
        attempt = self.attempts[uid].get((key, number))
        if attempt is None or attempt.closed_at is not None:
            raise Superseded(f"{key} attempt {number}")
        known = self.vitals[uid].get(key) or Vitals(key=key, attempt=number, changed_at=at)
        self.vitals[uid][key] = replace(known, attempt=number, changed_at=at)

    def save_checkpoint(
        self,
        uid: str,
        key: TaskKey,
        number: int,
        data: bytes,
        *,
        label: str | None = None,
        recoverable: bool = True,
        order: int | None = None,
        keep: int = CHECKPOINTS_PER_TASK,
        at: datetime,
    ) -> int:
        """What the gateway does with a checkpoint. Raises Superseded, Overtaken, LedgerUnavailable."""
        if self.outage:
            raise LedgerUnavailable("outage")
        attempt = self.attempts[uid].get((key, number))
        if attempt is None or attempt.closed_at is not None or self.tasks[uid][key].attempt != number:
            raise Superseded(f"{key} attempt {number}")
        kept = self.checkpoints[uid][key]
        newest, attempt_of_order = self.orders.get((uid, key), (0, 0))
        if order is not None and attempt_of_order == number and order <= newest:
            for known in kept:
                if (known.attempt, known.order, known.data) == (number, order, data):
                    return known.sequence
            raise Overtaken(f"order {order}")
        if order is not None:
            self.orders[uid, key] = order, number
        sequence = self.sequences[uid, key] = self.sequences.get((uid, key), 0) + 1
        kept.append(
            SimulatedCheckpoint(
                sequence=sequence,
                attempt=number,
                data=data,
                label=label,
                recoverable=recoverable,
                order=order,
            )
        )
        current = self.latest_checkpoint(uid, key)
        self.checkpoints[uid][key] = [
            found for found in kept if found.sequence > sequence - keep or found is current
        ]
        known = self.vitals[uid].get(key) or Vitals(key=key, attempt=number, changed_at=at)
        self.vitals[uid][key] = replace(known, attempt=number, changed_at=at)
        if recoverable:
            self.vitals[uid][key] = replace(
                self.vitals[uid][key],
                checkpoint_sequence=sequence,
                checkpoint_label=label,
                checkpoint_at=at,
            )
        return sequence

    def latest_checkpoint(
        self, uid: str, key: TaskKey, label: str | None = None
    ) -> SimulatedCheckpoint | None:
        """What an attempt goes on from."""
        fitting = (found for found in reversed(self.checkpoints[uid][key]) if found.recoverable)
        return next((found for found in fitting if label in (None, found.label)), None)

    def wake(self, wake: Wake | None) -> None:
        for queue in self._wakes:
            queue.put_nowait(wake)

    def kind_of(self, uid: str, key: TaskKey) -> str:
        """What kind of step a task is of: agent, wait or workflow."""
        spec = self.runs[uid].spec
        steps = [*spec["steps"], *(spec.get("finally") or ())]
        step = next(step for step in steps if step["name"] == key.step)
        return next((kind for kind in ("wait", "workflow") if kind in step), "agent")

    # --- underneath

    def _state(self, uid: str) -> RunState:
        newest: dict[TaskKey, AttemptRecord] = {}
        for (key, _), attempt in sorted(self.attempts[uid].items()):
            newest[key] = attempt
        return RunState(
            run=self.runs[uid], steps=dict(self.steps[uid]), tasks=dict(self.tasks[uid]), attempts=newest
        )

    def _remember(self, commit: Commit) -> None:
        for task in sorted(commit.tasks, key=lambda task: task.key, reverse=True):
            if task.cache_key is None or task.cache_until is None or task.finished_at is None:
                continue
            if task.phase is not Phase.SUCCEEDED or task.reason is Reason.CACHED:
                continue
            place = commit.run.namespace, task.cache_key
            known = self.cache.get(place)
            if known is None or _ended(known[0]) <= task.finished_at:
                self.cache[place] = task, commit.run.name

    def _check(self, commit: Commit, before: RunRecord | None) -> None:
        """What must hold of every commit, whatever went wrong before it."""
        uid = commit.run.uid
        check_transition(Phase.PENDING if before is None else before.phase, commit.run.phase)
        for task in commit.tasks:
            known = self.tasks[uid].get(task.key)
            if known is not None:
                assert not known.phase.terminal, f"a terminal task changes: {known} -> {task}"
                assert task.attempt in (known.attempt, known.attempt + 1), (known, task)
        for id in commit.consumed:
            assert id in self.signals[uid], f"a signal that was never sent is consumed: {id}"
            assert id not in self.consumed[uid], f"a signal is consumed twice: {id}"
        opened = dict.fromkeys(
            key for (key, _), found in self.attempts[uid].items() if found.closed_at is None
        )
        for attempt in commit.attempts:
            known_attempt = self.attempts[uid].get((attempt.key, attempt.number))
            assert known_attempt is None or known_attempt.closed_at is None, (
                f"a closed attempt changes: {attempt}"
            )
            if known_attempt is not None and known_attempt.report is not None:
                assert attempt.report == known_attempt.report, "a report was overlooked"
            if known_attempt is None:
                assert attempt.key not in opened, f"two open attempts of {attempt.key}"
            if attempt.closed_at is not None:
                opened.pop(attempt.key, None)
            else:
                opened[attempt.key] = None

    def _call(self) -> _Call:
        return _Call(self)


def _until(task: TaskRecord) -> datetime:
    assert task.cache_until is not None
    return task.cache_until


def _ended(task: TaskRecord) -> datetime:
    assert task.finished_at is not None
    return task.finished_at


class _Call:
    """A call that may fail before it begins, or after it has taken effect: the caller cannot tell which."""

    def __init__(self, ledger: SimulatedLedger) -> None:
        self._ledger = ledger
        self._chance = ledger._chance

    async def __aenter__(self) -> None:
        await self._chance.latency()
        if self._ledger.outage or self._chance.happens(self._chance.odds.call_fails):
            raise LedgerUnavailable("no connection")

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._chance.latency()
        if kind is None and self._chance.happens(self._chance.odds.call_fails):
            raise LedgerUnavailable("connection lost")
