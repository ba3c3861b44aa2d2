"""The guarantees, checked at every single change of the ledger and of the cluster.

The checks use a model of their own. It is filled by what was written, and it knows the true end of every pod,
which no part of the product does. The model trusts neither the ledger's fences nor the operator's decisions,
so breaking either of them shows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from perdure.domain.events import EventType
from perdure.domain.payloads import value_of
from perdure.domain.phases import RUN, TASK, Phase, Reason, Transitions, successors
from perdure.domain.records import (
    WORKFLOW,
    AttemptRecord,
    Commit,
    Report,
    RunRecord,
    Signal,
    TaskKey,
    TaskRecord,
)
from tests.fakes.model import PodTruth, RunModel, summary

#: Reasons of ends that follow from an exit code, or from the clock.
_BY_EXIT: Final = {Reason.EXIT_CODE, Reason.OOM_KILLED, Reason.NO_RESULT}
_BY_CLOCK: Final = {Reason.TIMEOUT, Reason.PENDING_TIMEOUT, Reason.IDLE_TIMEOUT}
_FAILURES: Final = _BY_EXIT | _BY_CLOCK | {Reason.AGENT_FAILURE, Reason.CHILD_FAILED, Reason.NAME_CONFLICT}
_DISRUPTIONS: Final = {Reason.DISRUPTED, Reason.INTERRUPTED, Reason.SUPERSEDED}


class Guarantees:
    """The checks. Records the first guarantee that is broken."""

    def __init__(self, clock: Callable[[], datetime], trace: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._trace = trace
        self.violation: str | None = None
        self.runs: dict[str, RunModel] = {}
        self.epoch = 0
        #: Attempts of agents that may be open at once.
        self.limit: int | None = None
        self._open_agents = 0
        #: What became of pods, by uid, and by task and attempt.
        self.truths: dict[str, PodTruth] = {}
        self._truths_of: dict[tuple[str, int], list[PodTruth]] = defaultdict(list)
        #: The outputs of all echo tasks, which later tasks may be given from the cache.
        self._echoed: list[Any] = []
        #: How often something was written, for people to see how much a seed tries.
        self.counts: Counter[str] = Counter()

    def note(self, text: str) -> None:
        """Trace an event, for people who search for a cause."""
        if self._trace is not None:
            self._trace(f"{self._clock().strftime('%H:%M:%S.%f')} {text}")

    def broken(self, text: str) -> None:
        """A guarantee does not hold."""
        self.note(f"BROKEN {text}")
        if self.violation is None:
            self.violation = f"{self._clock().strftime('%H:%M:%S.%f')}: {text}"

    def demand(self, holds: bool, text: str) -> None:
        if not holds:
            self.broken(text)

    # --- pods

    def pod_made(self, truth: PodTruth, run_uid: str) -> None:
        """A pod was created for an attempt."""
        self.counts["pods"] += 1
        self.truths[truth.uid] = truth
        self._truths_of[truth.task, truth.attempt].append(truth)
        model = self.runs.get(run_uid)
        known = model is not None and any(
            attempt.number == truth.attempt
            for key, task in model.tasks.items()
            if task.name == truth.task
            for attempt in model.attempts.get(key, ())
        )
        self.demand(known, f"pod {truth.pod} was made for an attempt that the ledger does not have")

    def _truths(self, task: str, attempt: int) -> list[PodTruth]:
        return self._truths_of.get((task, attempt), [])

    # --- what the operator writes

    def epoch_taken(self, epoch: int) -> None:
        self.demand(epoch > self.epoch, f"epoch {epoch} was given out after {self.epoch}")
        self.epoch = epoch

    def committed(self, commit: Commit, *, epoch: int) -> None:
        """A decision was committed."""
        self.counts["commits"] += 1
        after, uid = commit.run, commit.run.uid
        if self._trace is not None:
            self.note(f"commit by {epoch}: {summary(commit)}")
        self.demand(
            epoch == self.epoch, f"a deposed leader (epoch {epoch} of {self.epoch}) changed {after.name}"
        )
        model = self.runs.get(uid)
        if model is None:
            self.demand(after.version == 0, f"run {after.name} was made at version {after.version}")
            model = self.runs[uid] = RunModel.of(after)
        before = model.run
        if after.version or before is not after:
            self.demand(
                after.version == before.version,
                f"{after.name}: decided at version {after.version}, and {before.version} was there",
            )
            self.demand(not before.phase.terminal, f"{after.name} changed after it had ended")
            self._check_transition(RUN, after.name, before.phase, after.phase)
        paused = after.phase is Phase.PAUSED
        closed = self._check_attempts(model, commit, paused=paused)
        self._check_tasks(model, commit, closed)
        if before.phase is Phase.PAUSED and not paused:
            self._check_timers(model, commit)
        for task in commit.tasks:
            model.tasks[task.key] = task
        self._check_signals(model, commit)
        model.run = replace(after, version=before.version + 1)
        if after.phase.terminal:
            self._check_end(model)
        self.demand(
            self.limit is None or self._open_agents <= self.limit,
            f"{self._open_agents} attempts are open, and {self.limit} may be",
        )
        self._check_parallelism(model)
        self._check_said(commit, closed, before)

    def _check_transition(self, table: Transitions, what: str, before: Phase, after: Phase) -> None:
        legal = before is after or after in successors(table, before)
        self.demand(legal, f"{what}: {before} -> {after}")

    def _check_attempts(
        self, model: RunModel, commit: Commit, *, paused: bool
    ) -> dict[TaskKey, AttemptRecord]:
        """Check the attempts of a commit in their order. Returns those that the commit closes."""
        closed: dict[TaskKey, AttemptRecord] = {}
        for attempt in commit.attempts:
            key, name = attempt.key, attempt.pod_name
            attempts = model.attempts.setdefault(key, [])
            is_agent = model.plan.steps[key.step].kind.field == "agent"
            if attempt.number == len(attempts) + 1:
                self.demand(model.open(key) is None, f"{name} was opened before the one before it was closed")
                self.demand(not paused, f"{name} was opened in a paused run")
                attempts.append(attempt)
                self._open_agents += is_agent
                self.counts["attempts"] += 1
            elif not 0 < attempt.number <= len(attempts):
                self.broken(f"{name} has number {attempt.number} after {len(attempts)} attempts")
                continue
            else:
                known = attempts[attempt.number - 1]
                if known.closed_at is not None:
                    self.demand(attempt == known, f"{name} changed after it was closed")
                    continue
                attempts[attempt.number - 1] = attempt
            if attempt.closed_at is not None:
                self._open_agents -= is_agent
                closed[key] = attempt
        return closed

    def _check_tasks(self, model: RunModel, commit: Commit, closed: Mapping[TaskKey, AttemptRecord]) -> None:
        for task in commit.tasks:
            before = model.tasks.get(task.key)
            attempt = closed.get(task.key)
            if before is not None:
                self.demand(not before.phase.terminal, f"{task.name} changed after it had ended")
                self._check_transition(TASK, task.name, before.phase, task.phase)
            if model.plan.steps[task.key.step].kind.field != "agent" or task.reason is Reason.CACHED:
                continue
            retries = task.retries - (0 if before is None else before.retries)
            disruptions = task.disruptions - (0 if before is None else before.disruptions)
            reason = None if attempt is None else attempt.reason
            self.demand(retries == 0 or reason in _FAILURES, f"{task.name}: a retry was spent on {reason}")
            self.demand(
                disruptions == 0 or reason in _DISRUPTIONS, f"{task.name}: {reason} counted as a disruption"
            )
            if attempt is not None:
                self._check_outcome(model, task, attempt)
            if task.phase is Phase.SUCCEEDED:
                self.demand(attempt is not None, f"{task.name} succeeded without an attempt")
            if task.phase is Phase.FAILED and task.reason is not Reason.DISRUPTION_LIMIT:
                self.demand(reason not in _DISRUPTIONS, f"{task.name} failed for {reason}")

    def _check_outcome(self, model: RunModel, task: TaskRecord, attempt: AttemptRecord) -> None:
        """Compare how an attempt is said to have ended with what really happened."""
        name, reason = attempt.pod_name, attempt.reason
        report = model.reports.get((task.key, attempt.number))
        if report is not None and reason is not Reason.DELETED:
            expected = Phase.SUCCEEDED if report.outcome == "Succeeded" else Phase.FAILED
            because = None if report.outcome == "Succeeded" else Reason.AGENT_FAILURE
            self.demand(
                attempt.outcome is expected and reason is because,
                f"{name} reported {report.outcome}, and ended for {reason}",
            )
        truths = self._truths(task.name, attempt.number)
        codes = {truth.code for truth in truths}
        if attempt.outcome is Phase.SUCCEEDED:
            self.demand(report is not None or 0 in codes, f"{name} succeeded without a result")
        elif reason in _BY_EXIT:
            self.demand(bool(codes - {None, 75, 76}), f"{name} ended for {reason}, its pod with {codes}")
        elif reason is Reason.AGENT_FAILURE:
            self.demand(report is not None, f"{name} failed for a report that it never made")
        elif reason is Reason.DISRUPTED:
            # A Job may be deleted before it has a pod.
            self.demand(
                not truths or any(truth.outside for truth in truths),
                f"{name} was not disrupted: its pod ended with {codes}",
            )
        elif reason is Reason.INTERRUPTED:
            self.demand(75 in codes, f"{name} was not interrupted: its pod ended with {codes}")
        elif reason is Reason.SUPERSEDED:
            self.demand(76 in codes, f"{name} did not take itself for superseded: {codes}")
        elif reason in _BY_CLOCK:
            self._check_clock(model, task, attempt, truths)

    def _check_clock(
        self, model: RunModel, task: TaskRecord, attempt: AttemptRecord, truths: list[PodTruth]
    ) -> None:
        step = model.plan.steps[task.key.step]
        started = min((truth.started_at for truth in truths if truth.started_at is not None), default=None)
        since: datetime | None
        if attempt.reason is Reason.PENDING_TIMEOUT:
            since, limit = attempt.created_at, step.pending_timeout
        elif attempt.reason is Reason.TIMEOUT:
            since, limit = started, step.timeout
        else:
            sign = model.signs.get((task.key, attempt.number))
            since = max((at for at in (started, sign) if at is not None), default=None)
            limit = step.idle_timeout
        if since is None or limit is None:
            self.broken(f"{attempt.pod_name} ended for {attempt.reason}, and no clock of it ran")
        else:
            # A heartbeat may be in flight to the operator while the operator decides.
            slack = timedelta(seconds=2 if attempt.reason is Reason.IDLE_TIMEOUT else 0)
            self.demand(
                self._clock() - since >= limit - slack,
                f"{attempt.pod_name} ended for {attempt.reason} {self._clock() - since} after {since}",
            )

    def _check_timers(self, model: RunModel, commit: Commit) -> None:
        """A pause has ended: every timer has as much time left as at its start."""
        before, after = model.run, commit.run
        if before.paused_at is None or after.paused_at is not None:
            self.broken(f"{after.name}: paused since {before.paused_at}, then {after.paused_at}")
            return
        if after.stop is not None or after.phase.terminal:
            return
        if not commit.events:
            return
        # Everything in one decision has the same time.
        moment = commit.events[0].time
        lost = moment - before.paused_at
        if before.deadline_at is not None:
            self.demand(
                after.deadline_at == before.deadline_at + lost, f"{after.name}: its deadline moved wrongly"
            )
        for task in commit.tasks:
            known = model.tasks.get(task.key)
            if known is None or known.retry_at is None or known.phase is not Phase.PAUSED:
                continue
            goes_on = task.retry_at == known.retry_at + lost or known.retry_at + lost <= moment
            # A decision may end the pause and take the signal that ends the wait.
            signalled = task.phase is Phase.SUCCEEDED and model.signal_for(task) is not None
            self.demand(
                goes_on or signalled or task.phase is Phase.CANCELLED,
                f"{task.name}: its time was {known.retry_at}, is {task.retry_at}, and {lost} were lost",
            )

    def _check_end(self, model: RunModel) -> None:
        name = model.run.name
        for key, task in model.tasks.items():
            self.demand(task.phase.terminal, f"{name} ended before its task {task.name}")
            self.demand(model.open(key) is None, f"{name} ended with an open attempt of {task.name}")

    def _check_parallelism(self, model: RunModel) -> None:
        plan = model.plan
        if plan.settings.parallelism is None:
            return
        number = sum(
            model.open(key) is not None for key in model.attempts if not plan.steps[key.step].is_finally
        )
        self.demand(number <= plan.settings.parallelism, f"{model.run.name}: {number} tasks run at once")

    def _check_said(self, commit: Commit, closed: Mapping[TaskKey, AttemptRecord], before: RunRecord) -> None:
        """Every change has its event in the same commit."""
        said = {(event.type, event.task, event.attempt) for event in commit.events}
        for task in commit.tasks:
            if task.phase.terminal:
                event = EventType(f"task.{task.phase.value.lower()}"), task.name, task.attempt or None
                self.demand(event in said, f"{task.name} ended without an event")
        for attempt in commit.attempts:
            if attempt.closed_at is None and attempt.started_at is None and attempt.stopping is None:
                names = {task.name for task in commit.tasks if task.key == attempt.key}
                for name in names:
                    event = EventType.TASK_SCHEDULED, name, attempt.number
                    self.demand(event in said, f"{attempt.pod_name} was opened without an event")
        run = commit.run
        if run.kind == WORKFLOW and run.phase is not before.phase and run.phase.terminal:
            end = EventType(f"workflow.{run.phase.value.lower()}"), None, None
            self.demand(end in said, f"{run.name} ended without an event")

    def pod_recorded(
        self, run_uid: str, key: TaskKey, number: int, pod_uid: str, *, owner: str | None
    ) -> None:
        """The ledger records the pod or child of an attempt; in the cluster it belongs to the run `owner`."""
        model = self.runs[run_uid]
        self.note(f"pod {pod_uid} is recorded as attempt {number} of {key}")
        self.demand(owner == run_uid, f"pod {pod_uid} was recorded for {model.run.name}, and is of {owner}")
        attempts = model.attempts[key]
        attempts[number - 1] = replace(attempts[number - 1], pod_uid=pod_uid)

    def history_forgotten(self, uid: str) -> None:
        model = self.runs[uid]
        self.demand(model.run.phase.terminal, f"{model.run.name} was forgotten while it was live")

    # --- signals

    def signal_sent(self, uid: str, signal: Signal) -> None:
        """A signal is in the inbox of a run, so no decision counts that was made without it."""
        self.counts["signals"] += 1
        self.note(f"signal {signal.id} ({signal.name}) for {signal.key}")
        model = self.runs[uid]
        task = model.tasks.get(signal.key)
        self.counts["signals before their task"] += task is None or task.started_at is None
        self.counts["signals to a paused run"] += model.run.phase is Phase.PAUSED
        self.demand(not model.run.phase.terminal, f"{model.run.name} took signal {signal.id} after its end")
        self.demand(signal.id not in model.signals, f"{model.run.name} took signal {signal.id} twice")
        model.signals[signal.id] = signal
        model.run = replace(model.run, version=model.run.version + 1)

    def _check_signals(self, model: RunModel, commit: Commit) -> None:
        """A signal that a waiting task needs is consumed once, by the first decision after it was sent."""
        name = commit.run.name
        self.counts["signals consumed"] += len(commit.consumed)
        for id in commit.consumed:
            unread = id in model.signals and id not in model.consumed
            self.demand(unread, f"{name}: signal {id} was not sent, or is consumed twice")
            model.consumed.add(id)
        used = set()
        for task in commit.tasks:
            signal = model.signal_for(task)
            is_echo = model.plan.steps[task.key.step].kind.field == "echo"
            if task.reason is Reason.CACHED:
                known = not is_echo or value_of(task.output) in self._echoed
                self.demand(known, f"{task.name} was given {task.output}, which no echo gave")
                continue
            if task.phase is Phase.SUCCEEDED and is_echo:
                if signal is None:
                    self.broken(f"{task.name} succeeded without a signal")
                    continue
                used.add(signal.id)
                self._echoed.append(value_of(task.output))
                self.demand(
                    value_of(task.output) == signal.payload,
                    f"{task.name} gave {task.output}, not {signal.payload}",
                )
            self.demand(
                task.reason is not Reason.TIMEOUT or signal is None,
                f"{task.name} timed out with its signal in the inbox",
            )
        self.demand(used == set(commit.consumed), f"{name} used signals {used}, and says {commit.consumed}")
        if not model.signals:
            return
        for task in model.tasks.values():
            waits = task.phase in (Phase.RUNNING, Phase.PAUSED) and task.started_at is not None
            self.demand(
                not waits or model.signal_for(task) is None,
                f"{name} was decided without the signal that {task.name} waits for",
            )

    # --- events

    def event_written(self, uid: str, sequence: int) -> None:
        model = self.runs.get(uid)
        if model is None:
            self.broken(f"an event of the unknown run {uid} was written")
            return
        self.counts["events"] += 1
        self.demand(
            sequence == model.sequence + 1, f"{model.run.name}: event {sequence} after {model.sequence}"
        )
        model.sequence = sequence

    def sequence_given(self, uid: str, sequence: int) -> None:
        """The ledger says that a run has this many events."""
        model = self.runs[uid]
        self.demand(
            sequence == model.sequence,
            f"{model.run.name}: {sequence} events are counted, and {model.sequence} are there",
        )

    def event_published(self, uid: str, sequence: int) -> None:
        model = self.runs.get(uid)
        if model is None or sequence > model.sequence:
            self.broken(f"event {sequence} of run {uid} was published before it was committed")
            return
        self.demand(
            sequence <= model.published + 1,
            f"{model.run.name}: event {sequence} was published after {model.published}",
        )
        model.published = max(model.published, sequence)

    # --- what agents write

    def agent_wrote(
        self, what: str, uid: str, key: TaskKey, number: int, pod_uid: str, *, at: datetime
    ) -> None:
        """The ledger has written something for the agent in a pod; a gateway received it `at` this time."""
        self.counts[what] += 1
        model = self.runs[uid]
        self.note(f"{what} of {key} attempt {number} by {pod_uid}")
        attempt = model.open(key)
        self.demand(
            attempt is not None and attempt.number == number and not model.run.phase.terminal,
            f"{model.run.name}: attempt {number} of {key} was superseded, and wrote a {what}",
        )
        truth = self.truths.get(pod_uid)
        self.demand(
            truth is not None and truth.attempt == number,
            f"pod {pod_uid} wrote a {what} for attempt {number}",
        )
        model.signs[key, number] = max(at, model.signs.get((key, number), at))

    def commits_fenced(self, uid: str) -> None:
        """A leader that does not know the outcome of its commit has fenced it off."""
        model = self.runs[uid]
        model.run = replace(model.run, version=model.run.version + 1)

    def reported(self, uid: str, key: TaskKey, number: int, report: Report) -> None:
        model = self.runs[uid]
        self.demand((key, number) not in model.reports, f"attempt {number} of {key} reported twice")
        model.reports[key, number] = report
        model.run = replace(model.run, version=model.run.version + 1)

    def saved(self, uid: str, key: TaskKey, part: int) -> None:
        """A checkpoint that includes this part of the work is durable."""
        model = self.runs[uid]
        self.demand(
            part == model.saved[key] + 1,
            f"{model.run.name}: part {part} of {key} was done after {model.saved[key]} were",
        )
        model.saved[key] = max(model.saved[key], part)

    def restored(self, uid: str, key: TaskKey, part: int) -> None:
        """An attempt resumes after this part."""
        model = self.runs[uid]
        self.demand(
            part == model.saved[key],
            f"{model.run.name}: {key} goes on after part {part}, and {model.saved[key]} were saved",
        )
