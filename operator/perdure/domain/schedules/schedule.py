"""Which runs a WorkflowSchedule makes, cancels and deletes now.

`decide_schedule` is pure, and its facts are the schedule's status and the runs that exist. A decision that
was lost in a crash is therefore made again:

- A time is *dealt with* once its run exists, or once it was left out on purpose. `nextScheduleTime` in the
  status is the first that is not. It moves on only after the run was made.
- A run is named after its time, so making it again meets it. It is deleted as history only when the status
  says that its time is dealt with; from then on nothing makes it again.

Of several times that were missed, only the newest is made up for, as CronJob does. A time that comes while
the schedule is suspended, or while Forbid applies, is left out for good: a user who resumes a schedule does
not expect the run of a month ago. For the same reason an edited schedule counts from when the edit is first
seen, unless a time was already missed by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

from perdure.api.base import parse_duration
from perdure.api.status import timestamp
from perdure.api.workflowschedule import WorkflowScheduleSpec
from perdure.domain.schedules.cron import latest_time, next_times

#: Missed times that are counted; a message says that there were more.
MAX_MISSED = 100

_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFacts:
    """The schedule itself, and what its status remembers."""

    name: str
    created_at: datetime
    generation: int
    #: The generation that was last reconciled; None if the schedule never was.
    observed_generation: int | None = None
    #: The newest time whose run was made.
    last_time: datetime | None = None
    #: The first time that was not dealt with; None if there was none to come.
    next_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRun:
    """A Workflow that the schedule owns."""

    name: str
    uid: str
    created_at: datetime
    finished: bool
    succeeded: bool = False
    #: The run's `desiredState` is Cancelled.
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRun:
    """A run to be made. It may exist already; that is met as AlreadyExists, or seen in `exists`."""

    name: str
    time: datetime
    exists: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDecision:
    """What to do, in this order: cancel, create, note in the status, delete.

    Until `create` has succeeded, its time stays the next one in the status.
    """

    create: DueRun | None = None
    cancel: tuple[ScheduledRun, ...] = ()
    delete: tuple[ScheduledRun, ...] = ()
    #: Runs that are live, the one to be made not among them; the newest first.
    active: tuple[ScheduledRun, ...] = ()
    #: The first time after now; None if none is to come.
    next_time: datetime | None = None
    #: What was left out, and why, for people; None if nothing was left out now.
    left_out: str | None = None


def run_name(schedule: str, time: datetime) -> str:
    """`<schedule>-<minutes since 1970>` of a scheduled time."""
    return f"{schedule}-{int(time.timestamp()) // 60}"


def scheduled_time(schedule: str, run: str) -> datetime | None:
    """The time after which a run is named; None if it is not named so."""
    minutes = run.removeprefix(f"{schedule}-")
    if minutes == run or not (minutes.isascii() and minutes.isdigit()) or len(minutes) > 10:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=int(minutes))


def decide_schedule(
    spec: WorkflowScheduleSpec, facts: ScheduleFacts, runs: Sequence[ScheduledRun], now: datetime
) -> ScheduleDecision:
    """The actions due at `now`. The caller reconciles again at `next_time`, or when a run changes."""
    following = next(next_times(spec.schedule, spec.time_zone, now), None)
    live = sorted((run for run in runs if not run.finished), key=lambda run: run.created_at, reverse=True)
    delete = _history(spec, facts, runs)
    if spec.suspend:
        return ScheduleDecision(active=tuple(live), delete=delete)
    since = _dealt_with_until(facts, now)
    time = latest_time(spec.schedule, spec.time_zone, since, now)
    if time is None:
        return ScheduleDecision(active=tuple(live), delete=delete, next_time=following)
    name = run_name(facts.name, time)
    exists = any(run.name == name for run in runs)
    others = tuple(run for run in live if run.name != name)
    left_out = None if exists else _left_out(spec, time, others, now)
    if left_out is not None:
        return ScheduleDecision(active=tuple(live), delete=delete, next_time=following, left_out=left_out)
    replaced = others if spec.concurrency_policy == "Replace" else ()
    missed = _missed(spec, since, time)
    return ScheduleDecision(
        create=DueRun(name=name, time=time, exists=exists),
        cancel=tuple(run for run in replaced if not run.cancelled),
        active=others,
        delete=delete,
        next_time=following,
        left_out=missed and f"left out: {missed} before {timestamp(time)}",
    )


def _dealt_with_until(facts: ScheduleFacts, now: datetime) -> datetime:
    """Times up to this one need no run any more."""
    next_time = facts.next_time
    if facts.observed_generation is None:
        until = facts.created_at
    elif next_time is None:
        until = now  # it was suspended, or could not be read
    elif facts.observed_generation != facts.generation and next_time > now:
        until = now  # the times of a new schedule count from when it is seen
    else:
        until = next_time - _MOMENT
    return until if facts.last_time is None else max(until, facts.last_time)


def _left_out(
    spec: WorkflowScheduleSpec, time: datetime, live: Sequence[ScheduledRun], now: datetime
) -> str | None:
    """Why the run of a time that is due is not made."""
    what = f"the run of {timestamp(time)} was left out"
    deadline = spec.starting_deadline
    if deadline is not None and now - time > timedelta(seconds=parse_duration(deadline)):
        return f"{what}: it would have started later than startingDeadline {deadline} allows"
    if spec.concurrency_policy == "Forbid" and live:
        return f"{what}: {live[0].name} is still live, and concurrencyPolicy is Forbid"
    return None


def _missed(spec: WorkflowScheduleSpec, since: datetime, time: datetime) -> str | None:
    """How many times there were between those dealt with and the newest; None if there was none."""
    between = takewhile(lambda one: one < time, next_times(spec.schedule, spec.time_zone, since))
    number = sum(1 for _ in islice(between, MAX_MISSED + 1))
    if number > MAX_MISSED:
        return f"more than {MAX_MISSED} missed times"
    return f"{number} missed {'time' if number == 1 else 'times'}" if number else None


def _history(
    spec: WorkflowScheduleSpec, facts: ScheduleFacts, runs: Sequence[ScheduledRun]
) -> tuple[ScheduledRun, ...]:
    """Finished runs beyond what is to be kept, the oldest first."""
    finished = sorted((run for run in runs if run.finished), key=lambda run: _age(facts, run), reverse=True)
    succeeded = [run for run in finished if run.succeeded]
    failed = [run for run in finished if not run.succeeded]
    beyond = succeeded[spec.successful_history_limit :] + failed[spec.failed_history_limit :]
    may_go = [run for run in beyond if facts.last_time is not None and _age(facts, run)[0] <= facts.last_time]
    return tuple(sorted(may_go, key=lambda run: _age(facts, run)))


def _age(facts: ScheduleFacts, run: ScheduledRun) -> tuple[datetime, datetime, str]:
    return scheduled_time(facts.name, run.name) or run.created_at, run.created_at, run.name
