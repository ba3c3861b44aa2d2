"""The guarantees, checked at every single change of the ledger and of the cluster.

What is checked against is a mirror of its own: it is filled by what was written, and knows besides, as no
part of the real system does, what really became of every pod. It trusts neither the ledger's fences nor the
operator's judgement, so that breaking either of them shows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from perdure.domain.phases import IllegalTransition, Phase, Reason, check_transition
from perdure.domain.records import (
    WORKFLOW,
    AttemptRecord,
    Commit,
    Report,
    RunRecord,
    TaskKey,
    TaskRecord,
)
from tests.simulated.storm.mirror import Fate, Mirror, summary

#: Ends of attempts that are told by an exit code, by a report, or by the clock.
_BY_EXIT: Final = {Reason.EXIT_CODE, Reason.OOM_KILLED, Reason.NO_RESULT}
_BY_CLOCK: Final = {Reason.TIMEOUT, Reason.PENDING_TIMEOUT, Reason.IDLE_TIMEOUT}
_FAILURES: Final = _BY_EXIT | _BY_CLOCK | {Reason.AGENT_FAILURE, Reason.CHILD_FAILED, Reason.NAME_CONFLICT}
_DISRUPTIONS: Final = {Reason.DISRUPTED, Reason.INTERRUPTED, Reason.SUPERSEDED}


class Guarantees:
    """Notes the first guarantee that is broken."""

    def __init__(self, clock: Callable[[], datetime], tell: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._tell = tell
        self.violation: str | None = None
        self.runs: dict[str, Mirror] = {}
        self.epoch = 0
        #: Attempts of agents that may be open at once.
        self.limit: int | None = None
        self._open_agents = 0
        #: What became of pods, by uid, and by task and attempt.
        self.fates: dict[str, Fate] = {}
        self._fates_of: dict[tuple[str, int], list[Fate]] = defaultdict(list)
        #: How often something was written, for people to see how much a seed tries.
        self.counts: Counter[str] = Counter()

    def note(self, text: str) -> None:
        """Something happened that whoever looks for a cause wants to know of."""
        if self._tell is not None:
            self._tell(f"{self._clock().strftime('%H:%M:%S.%f')} {text}")

    def broken(self, text: str) -> None:
        """A guarantee does not hold."""
        self.note(f"BROKEN {text}")
        if self.violation is None:
            self.violation = f"{self._clock().strftime('%H:%M:%S.%f')}: {text}"

    def demand(self, holds: bool, text: str) -> None:
        if not holds:
            self.broken(text)

    # --- pods

    def pod_made(self, fate: Fate, run_uid: str) -> None:
        """A pod came to be that somebody made for an attempt."""
        self.counts["pods"] += 1
        self.fates[fate.uid] = fate
        self._fates_of[fate.task, fate.attempt].append(fate)
        mirror = self.runs.get(run_uid)
        known = mirror is not None and any(
            attempt.number == fate.attempt
            for key, task in mirror.tasks.items()
            if task.name == fate.task
            for attempt in mirror.attempts.get(key, ())
        )
        self.demand(known, f"pod {fate.pod} was made for an attempt that the ledger does not have")

    def _fates(self, task: str, attempt: int) -> list[Fate]:
        return self._fates_of.get((task, attempt), [])

    # --- what the operator writes

    def epoch_taken(self, epoch: int) -> None:
        self.demand(epoch > self.epoch, f"epoch {epoch} was given out after {self.epoch}")
        self.epoch = epoch

    def committed(self, commit: Commit, *, epoch: int) -> None:
        """The ledger has taken a decision."""
        self.counts["commits"] += 1
        after, uid = commit.run, commit.run.uid
        if self._tell is not None:
            self.note(f"commit by {epoch}: {summary(commit)}")
        self.demand(
            epoch == self.epoch, f"a deposed leader (epoch {epoch} of {self.epoch}) changed {after.name}"
        )
        mirror = self.runs.get(uid)
        if mirror is None:
            self.demand(after.version == 0, f"run {after.name} was made at version {after.version}")
            mirror = self.runs[uid] = Mirror.of(after)
        before = mirror.run
        if after.version or before is not after:
            self.demand(
                after.version == before.version,
                f"{after.name}: decided at version {after.version}, and {before.version} was there",
            )
            self.demand(not before.phase.terminal, f"{after.name} changed after it had ended")
            self._check_transition(after.name, before.phase, after.phase)
        paused = after.phase is Phase.PAUSED
        closed = self._check_attempts(mirror, commit, paused=paused)
        self._check_tasks(mirror, commit, closed)
        if before.phase is Phase.PAUSED and not paused:
            self._check_timers(mirror, commit)
        for task in commit.tasks:
            mirror.tasks[task.key] = task
        mirror.run = replace(after, version=before.version + 1)
        if after.phase.terminal:
            self._check_end(mirror)
        self.demand(
            self.limit is None or self._open_agents <= self.limit,
            f"{self._open_agents} attempts are open, and {self.limit} may be",
        )
        self._check_parallelism(mirror)
        self._check_said(commit, closed, before)

    def _check_transition(self, what: str, before: Phase, after: Phase) -> None:
        try:
            check_transition(before, after)
        except IllegalTransition as error:
            self.broken(f"{what}: {error}")

    def _check_attempts(
        self, mirror: Mirror, commit: Commit, *, paused: bool
    ) -> dict[TaskKey, AttemptRecord]:
        """Look at the attempts of a commit in their order; returns those that it closes."""
        closed: dict[TaskKey, AttemptRecord] = {}
        for attempt in commit.attempts:
            key, name = attempt.key, attempt.pod_name
            attempts = mirror.attempts.setdefault(key, [])
            is_agent = mirror.plan.steps[key.step].kind == "agent"
            if attempt.number == len(attempts) + 1:
                self.demand(
                    mirror.open(key) is None, f"{name} was opened before the one before it was closed"
                )
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

    def _check_tasks(self, mirror: Mirror, commit: Commit, closed: Mapping[TaskKey, AttemptRecord]) -> None:
        for task in commit.tasks:
            before = mirror.tasks.get(task.key)
            attempt = closed.get(task.key)
            if before is not None:
                self.demand(not before.phase.terminal, f"{task.name} changed after it had ended")
                self._check_transition(task.name, before.phase, task.phase)
            if mirror.plan.steps[task.key.step].kind != "agent" or task.reason is Reason.CACHED:
                continue
            retries = task.retries - (0 if before is None else before.retries)
            disruptions = task.disruptions - (0 if before is None else before.disruptions)
            reason = None if attempt is None else attempt.reason
            self.demand(retries == 0 or reason in _FAILURES, f"{task.name}: a retry was spent on {reason}")
            self.demand(
                disruptions == 0 or reason in _DISRUPTIONS, f"{task.name}: {reason} counted as a disruption"
            )
            if attempt is not None:
                self._check_outcome(mirror, task, attempt)
            if task.phase is Phase.SUCCEEDED:
                self.demand(attempt is not None, f"{task.name} succeeded without an attempt")
            if task.phase is Phase.FAILED and task.reason is not Reason.DISRUPTION_LIMIT:
                self.demand(reason not in _DISRUPTIONS, f"{task.name} failed for {reason}")

    def _check_outcome(self, mirror: Mirror, task: TaskRecord, attempt: AttemptRecord) -> None:
        """Compare how an attempt is said to have ended with what really happened."""
        name, reason = attempt.pod_name, attempt.reason
        report = mirror.reports.get((task.key, attempt.number))
        if report is not None and reason is not Reason.DELETED:
            expected = Phase.SUCCEEDED if report.outcome == "Succeeded" else Phase.FAILED
            because = None if report.outcome == "Succeeded" else Reason.AGENT_FAILURE
            self.demand(
                attempt.outcome is expected and reason is because,
                f"{name} reported {report.outcome}, and ended for {reason}",
            )
        fates = self._fates(task.name, attempt.number)
        codes = {fate.code for fate in fates}
        if attempt.outcome is Phase.SUCCEEDED:
            self.demand(report is not None or 0 in codes, f"{name} succeeded without a result")
        elif reason in _BY_EXIT:
            self.demand(bool(codes - {None, 75, 76}), f"{name} ended for {reason}, its pod with {codes}")
        elif reason is Reason.AGENT_FAILURE:
            self.demand(report is not None, f"{name} failed for a report that it never made")
        elif reason is Reason.DISRUPTED:
            # A Job may be deleted before it has a pod.
            self.demand(
                not fates or any(fate.outside for fate in fates),
                f"{name} was not disrupted: its pod ended with {codes}",
            )
        elif reason is Reason.INTERRUPTED:
            self.demand(75 in codes, f"{name} was not interrupted: its pod ended with {codes}")
        elif reason is Reason.SUPERSEDED:
            self.demand(76 in codes, f"{name} did not take itself for superseded: {codes}")
        elif reason in _BY_CLOCK:
            self._check_clock(mirror, task, attempt, fates)

    def _check_clock(
        self, mirror: Mirror, task: TaskRecord, attempt: AttemptRecord, fates: list[Fate]
    ) -> None:
        step = mirror.plan.steps[task.key.step]
        started = min((fate.started_at for fate in fates if fate.started_at is not None), default=None)
        since: datetime | None
        if attempt.reason is Reason.PENDING_TIMEOUT:
            since, limit = attempt.created_at, step.pending_timeout
        elif attempt.reason is Reason.TIMEOUT:
            since, limit = started, step.timeout
        else:
            sign = mirror.signs.get((task.key, attempt.number))
            since = max((at for at in (started, sign) if at is not None), default=None)
            limit = step.idle_timeout
        if since is None or limit is None:
            self.broken(f"{attempt.pod_name} ended for {attempt.reason}, and no clock of it ran")
        else:
            # An agent's sign may be on its way to the operator while it decides.
            slack = timedelta(seconds=2 if attempt.reason is Reason.IDLE_TIMEOUT else 0)
            self.demand(
                self._clock() - since >= limit - slack,
                f"{attempt.pod_name} ended for {attempt.reason} {self._clock() - since} after {since}",
            )

    def _check_timers(self, mirror: Mirror, commit: Commit) -> None:
        """A pause is over: every timer has as much left as it had."""
        before, after = mirror.run, commit.run
        if before.paused_at is None or after.paused_at is not None:
            self.broken(f"{after.name}: paused since {before.paused_at}, then {after.paused_at}")
            return
        if after.stop is not None or after.phase.terminal:
            return
        if not commit.events:
            return
        # All that is decided at once bears the same time.
        moment = commit.events[0].time
        lost = moment - before.paused_at
        if before.deadline_at is not None:
            self.demand(
                after.deadline_at == before.deadline_at + lost, f"{after.name}: its deadline moved wrongly"
            )
        for task in commit.tasks:
            known = mirror.tasks.get(task.key)
            if known is None or known.retry_at is None or known.phase is not Phase.PAUSED:
                continue
            goes_on = task.retry_at == known.retry_at + lost or known.retry_at + lost <= moment
            self.demand(
                goes_on or task.phase is Phase.CANCELLED,
                f"{task.name}: its time was {known.retry_at}, is {task.retry_at}, and {lost} were lost",
            )

    def _check_end(self, mirror: Mirror) -> None:
        name = mirror.run.name
        for key, task in mirror.tasks.items():
            self.demand(task.phase.terminal, f"{name} ended before its task {task.name}")
            self.demand(mirror.open(key) is None, f"{name} ended with an open attempt of {task.name}")

    def _check_parallelism(self, mirror: Mirror) -> None:
        plan = mirror.plan
        if plan.parallelism is None:
            return
        number = sum(
            mirror.open(key) is not None for key in mirror.attempts if not plan.steps[key.step].is_finally
        )
        self.demand(number <= plan.parallelism, f"{mirror.run.name}: {number} tasks run at once")

    def _check_said(self, commit: Commit, closed: Mapping[TaskKey, AttemptRecord], before: RunRecord) -> None:
        """Every change has its event in the same commit."""
        said = {(event.type, event.task, event.attempt) for event in commit.events}
        for task in commit.tasks:
            if task.phase.terminal:
                event = f"task.{task.phase.value.lower()}", task.name, task.attempt or None
                self.demand(event in said, f"{task.name} ended without an event")
        for attempt in commit.attempts:
            if attempt.closed_at is None and attempt.started_at is None and attempt.stopping is None:
                names = {task.name for task in commit.tasks if task.key == attempt.key}
                for name in names:
                    event = "task.scheduled", name, attempt.number
                    self.demand(event in said, f"{attempt.pod_name} was opened without an event")
        run = commit.run
        if run.kind == WORKFLOW and run.phase is not before.phase and run.phase.terminal:
            end = f"workflow.{run.phase.value.lower()}", None, None
            self.demand(end in said, f"{run.name} ended without an event")

    def pod_recorded(
        self, run_uid: str, key: TaskKey, number: int, pod_uid: str, *, owner: str | None
    ) -> None:
        """The ledger lets a pod in, or a child. `owner` is the run that made it, as the cluster has it."""
        mirror = self.runs[run_uid]
        self.note(f"pod {pod_uid} is let in as attempt {number} of {key}")
        self.demand(owner == run_uid, f"pod {pod_uid} was let in for {mirror.run.name}, and is of {owner}")
        attempts = mirror.attempts[key]
        attempts[number - 1] = replace(attempts[number - 1], pod_uid=pod_uid)

    def history_forgotten(self, uid: str) -> None:
        mirror = self.runs[uid]
        self.demand(mirror.run.phase.terminal, f"{mirror.run.name} was forgotten while it was live")

    # --- events

    def signals_consumed(self, uid: str, consumed: Collection[str], *, unread: Collection[str]) -> None:
        """A decision consumed signals: each was sent before, and no other decision consumed it."""
        self.counts["signals consumed"] += len(consumed)
        for id in consumed:
            self.demand(id in unread, f"{uid}: signal {id} was not sent, or is consumed twice")

    def event_written(self, uid: str, sequence: int) -> None:
        mirror = self.runs.get(uid)
        if mirror is None:
            self.broken(f"an event of the unknown run {uid} was written")
            return
        self.counts["events"] += 1
        self.demand(
            sequence == mirror.sequence + 1, f"{mirror.run.name}: event {sequence} after {mirror.sequence}"
        )
        mirror.sequence = sequence

    def sequence_given(self, uid: str, sequence: int) -> None:
        """The ledger counts so many events of a run."""
        mirror = self.runs[uid]
        self.demand(
            sequence == mirror.sequence,
            f"{mirror.run.name}: {sequence} events are counted, and {mirror.sequence} are there",
        )

    def event_published(self, uid: str, sequence: int) -> None:
        mirror = self.runs.get(uid)
        if mirror is None or sequence > mirror.sequence:
            self.broken(f"event {sequence} of run {uid} was published before it was committed")
            return
        self.demand(
            sequence <= mirror.published + 1,
            f"{mirror.run.name}: event {sequence} was published after {mirror.published}",
        )
        mirror.published = max(mirror.published, sequence)

    # --- what agents write

    def agent_wrote(
        self, what: str, uid: str, key: TaskKey, number: int, pod_uid: str, *, at: datetime
    ) -> None:
        """The ledger has taken something from the agent in a pod, which came to a gateway `at` a time."""
        self.counts[what] += 1
        mirror = self.runs[uid]
        self.note(f"{what} of {key} attempt {number} by {pod_uid}")
        attempt = mirror.open(key)
        self.demand(
            attempt is not None and attempt.number == number and not mirror.run.phase.terminal,
            f"{mirror.run.name}: attempt {number} of {key} was superseded, and wrote a {what}",
        )
        fate = self.fates.get(pod_uid)
        self.demand(
            fate is not None and fate.attempt == number, f"pod {pod_uid} wrote a {what} for attempt {number}"
        )
        mirror.signs[key, number] = max(at, mirror.signs.get((key, number), at))

    def commits_fenced(self, uid: str) -> None:
        """A leader does not know what became of its commit."""
        mirror = self.runs[uid]
        mirror.run = replace(mirror.run, version=mirror.run.version + 1)

    def reported(self, uid: str, key: TaskKey, number: int, report: Report) -> None:
        mirror = self.runs[uid]
        self.demand((key, number) not in mirror.reports, f"attempt {number} of {key} reported twice")
        mirror.reports[key, number] = report
        mirror.run = replace(mirror.run, version=mirror.run.version + 1)

    def saved(self, uid: str, key: TaskKey, part: int) -> None:
        """A checkpoint is durable, up to and with this part of the work."""
        mirror = self.runs[uid]
        self.demand(
            part == mirror.saved[key] + 1,
            f"{mirror.run.name}: part {part} of {key} was done after {mirror.saved[key]} were",
        )
        mirror.saved[key] = max(mirror.saved[key], part)

    def restored(self, uid: str, key: TaskKey, part: int) -> None:
        """An attempt goes on after this part."""
        mirror = self.runs[uid]
        self.demand(
            part == mirror.saved[key],
            f"{mirror.run.name}: {key} goes on after part {part}, and {mirror.saved[key]} were saved",
        )
