"""Which runs a schedule makes, cancels and deletes: tables, and a life with crashes at any point."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api.workflowschedule import WorkflowScheduleSpec
from perdure.domain.schedules.schedule import (
    DueRun,
    ScheduleDecision,
    ScheduledRun,
    ScheduleFacts,
    decide_schedule,
    run_name,
    scheduled_time,
)


def at(text: str) -> datetime:
    """A time of one day, as `12:00`."""
    return datetime.fromisoformat(f"2026-06-01 {text}").replace(tzinfo=UTC)


#: A schedule that was reconciled before: its run of 11:00 exists, and that of 12:00 is the next.
USUAL = ScheduleFacts(
    name="nightly",
    created_at=at("00:30"),
    generation=2,
    observed_generation=2,
    last_time=at("11:00"),
    next_time=at("12:00"),
)


def spec(**fields: Any) -> WorkflowScheduleSpec:
    return WorkflowScheduleSpec.model_validate(
        {"schedule": "0 * * * *", "workflow": {"spec": {}}, **fields}, strict=True
    )


def run(time: str, *, finished: bool = False, succeeded: bool = False, **fields: Any) -> ScheduledRun:
    """The run of a time; `succeeded` implies `finished`."""
    name = run_name("nightly", at(time))
    return ScheduledRun(
        name=name,
        uid=f"uid-{name}",
        created_at=at(time),
        finished=finished or succeeded,
        succeeded=succeeded,
        **fields,
    )


def created(decision: ScheduleDecision) -> str | None:
    return None if decision.create is None else f"{decision.create.time:%H:%M}"


def test_names_carry_the_minute() -> None:
    time = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
    assert run_name("nightly", time) == "nightly-29671920"
    assert scheduled_time("nightly", "nightly-29671920") == time


@pytest.mark.parametrize("name", ["nightly", "nightly-", "nightly-x", "other-29671920", "nightly--1"])
def test_other_names_have_no_time(name: str) -> None:
    assert scheduled_time("nightly", name) is None


@pytest.mark.parametrize(
    ("now", "facts", "expected"),
    [
        ("11:59", {}, None),
        ("12:00", {}, "12:00"),
        ("12:59", {}, "12:00"),
        # Of several that were missed, the newest.
        ("15:10", {}, "15:00"),
        # Its status was written before the clock was set back: nothing comes twice.
        ("11:30", {"last_time": at("12:00"), "next_time": at("13:00")}, None),
        # Never reconciled: times count from the schedule's creation.
        ("12:10", {"observed_generation": None, "last_time": None, "next_time": None}, "12:00"),
        ("12:10", {"observed_generation": None, "last_time": None, "next_time": None,
                   "created_at": at("12:05")}, None),
        ("12:00", {"observed_generation": None, "last_time": None, "next_time": None,
                   "created_at": at("12:00")}, None),
        # Of what the status should say, only the last time is left: it comes no more.
        ("12:10", {"observed_generation": None, "last_time": at("12:00"), "next_time": None}, None),
        # Suspended until now, or not to be read: from now on.
        ("12:10", {"observed_generation": 1, "next_time": None}, None),
        # Edited while nothing was due: from now on, though the new schedule has had times since the last run.
        ("12:10", {"observed_generation": 1, "next_time": at("18:00"), "last_time": at("06:00")}, None),
        # Edited after something was missed: that is made up for.
        ("12:10", {"observed_generation": 1, "next_time": at("10:00"), "last_time": at("06:00")}, "12:00"),
    ],
)  # fmt: skip
def test_what_is_due(now: str, facts: dict[str, Any], expected: str | None) -> None:
    decision = decide_schedule(spec(), replace(USUAL, **facts), [], at(now))
    assert created(decision) == expected
    assert decision.next_time is not None
    assert decision.next_time > at(now)


def test_a_run_is_named_after_its_time_and_not_after_now() -> None:
    decision = decide_schedule(spec(), USUAL, [], at("12:07"))
    assert decision.create == DueRun(name=run_name("nightly", at("12:00")), time=at("12:00"), exists=False)
    assert decision.next_time == at("13:00")


def test_a_run_that_exists_is_known_to_exist() -> None:
    """An earlier pass died between making it and noting it: whatever became of it, it is only noted now."""
    for existing in (run("12:00"), run("12:00", succeeded=True)):
        for policy in ("Allow", "Forbid", "Replace"):
            made = spec(concurrencyPolicy=policy, startingDeadline="1m")
            decision = decide_schedule(made, USUAL, [existing], at("12:30"))
            assert decision.create is not None and decision.create.exists
            assert decision.cancel == ()
            assert decision.left_out is None


@pytest.mark.parametrize(
    ("now", "deadline", "expected"),
    [
        ("12:00", "1s", "12:00"),
        ("12:05", "5m", "12:00"),
        ("12:06", "5m", None),
        ("12:06", None, "12:00"),
        ("15:06", "5m", None),
        ("15:04", "5m", "15:00"),
    ],
)
def test_a_run_later_than_its_deadline_is_left_out(now: str, deadline: str | None, expected: str) -> None:
    decision = decide_schedule(spec(startingDeadline=deadline), USUAL, [], at(now))
    assert created(decision) == expected
    if expected is None:
        assert decision.left_out is not None and "startingDeadline 5m" in decision.left_out
        assert decision.next_time is not None and decision.next_time > at(now)


@pytest.mark.parametrize(
    ("policy", "runs", "expected", "cancelled"),
    [
        ("Allow", [run("11:00")], "12:00", []),
        ("Forbid", [run("11:00")], None, []),
        ("Forbid", [run("11:00", cancelled=True)], None, []),
        ("Forbid", [run("11:00", finished=True)], "12:00", []),
        ("Replace", [run("10:00"), run("11:00")], "12:00", ["11:00", "10:00"]),
        ("Replace", [run("11:00", cancelled=True)], "12:00", []),
        ("Replace", [run("11:00", succeeded=True)], "12:00", []),
        # An earlier pass made the run, and died before it had cancelled the others.
        ("Replace", [run("11:00"), run("12:00")], "12:00", ["11:00"]),
    ],
)
def test_concurrency(
    policy: str, runs: list[ScheduledRun], expected: str | None, cancelled: list[str]
) -> None:
    decision = decide_schedule(spec(concurrencyPolicy=policy), USUAL, runs, at("12:00"))
    assert created(decision) == expected
    assert [f"{one.created_at:%H:%M}" for one in decision.cancel] == cancelled
    assert (decision.left_out is not None) == (expected is None)


def test_nothing_is_cancelled_when_nothing_is_due() -> None:
    decision = decide_schedule(spec(concurrencyPolicy="Replace"), USUAL, [run("11:00")], at("11:30"))
    assert decision.cancel == ()
    assert decision.active == (run("11:00"),)


def test_what_forbid_left_out_stays_left_out() -> None:
    made = spec(concurrencyPolicy="Forbid")
    first = decide_schedule(made, USUAL, [run("11:00")], at("12:00"))
    assert first.left_out is not None and run("11:00").name in first.left_out
    later = decide_schedule(
        made, replace(USUAL, next_time=first.next_time), [run("11:00", succeeded=True)], at("12:10")
    )
    assert later.create is None


def test_a_suspended_schedule_makes_nothing_and_keeps_its_history_short() -> None:
    runs = [run("09:00", succeeded=True), run("10:00", succeeded=True), run("11:00")]
    made = spec(suspend=True, successfulHistoryLimit=1)
    decision = decide_schedule(made, USUAL, runs, at("12:00"))
    assert decision == ScheduleDecision(active=(run("11:00"),), delete=(runs[0],))


@pytest.mark.parametrize(
    ("now", "note"),
    [
        ("12:00", None),
        ("13:30", "1 missed time "),
        ("15:30", "3 missed times "),
    ],
)
def test_times_that_are_not_made_up_for_are_counted(now: str, note: str | None) -> None:
    decision = decide_schedule(spec(), USUAL, [], at(now))
    assert (decision.left_out or "").removeprefix("left out: ").startswith(note or "")
    assert (decision.left_out is None) == (note is None)


def test_of_years_that_were_missed_no_more_is_counted_than_matters() -> None:
    now = at("12:00") + timedelta(days=3650)
    decision = decide_schedule(spec(schedule="* * * * *"), USUAL, [], now)
    assert decision.create is not None and decision.create.time == now
    assert decision.left_out is not None and "more than 100 missed times" in decision.left_out


@pytest.mark.parametrize(
    ("limits", "deleted"),
    [
        ({}, ["05:00", "07:00"]),
        ({"successfulHistoryLimit": 1}, ["05:00", "06:00", "07:00", "08:00"]),
        ({"successfulHistoryLimit": 0, "failedHistoryLimit": 0},
         ["05:00", "06:00", "07:00", "08:00", "09:00", "10:00"]),
        ({"successfulHistoryLimit": 9, "failedHistoryLimit": 9}, []),
    ],
)  # fmt: skip
def test_history_keeps_the_newest_of_each_kind(limits: dict[str, int], deleted: list[str]) -> None:
    runs = [
        run("10:00", succeeded=True),
        run("05:00", succeeded=True),
        run("06:00", succeeded=True),
        run("08:00", succeeded=True),
        run("07:00", finished=True),
        run("09:00", finished=True),
        run("04:00"),
    ]
    decision = decide_schedule(spec(**limits), USUAL, runs, at("11:30"))
    assert [f"{one.created_at:%H:%M}" for one in decision.delete] == deleted


def test_a_run_that_the_status_does_not_know_of_is_not_deleted() -> None:
    """Once it is gone, nothing but the status would keep it from being made again."""
    made = spec(successfulHistoryLimit=0)
    runs = [run("11:00", succeeded=True), run("12:00", succeeded=True)]
    decision = decide_schedule(made, USUAL, runs, at("12:30"))
    assert decision.delete == (runs[0],)
    noted = replace(USUAL, last_time=at("12:00"), next_time=at("13:00"))
    assert decide_schedule(made, noted, runs, at("12:30")).delete == tuple(runs)
    never = replace(USUAL, last_time=None)
    assert decide_schedule(made, never, runs, at("11:30")).delete == ()


@dataclass
class Life:
    """A schedule with its runs, whose operator may die between any two of its writes."""

    made: WorkflowScheduleSpec
    now: datetime = field(default_factory=lambda: at("00:00"))
    facts: ScheduleFacts = field(
        default_factory=lambda: ScheduleFacts(name="nightly", created_at=at("00:00"), generation=1)
    )
    runs: dict[str, ScheduledRun] = field(default_factory=dict)
    #: Every run that was ever made, in order.
    history: list[str] = field(default_factory=list)

    def reconcile(self, writes: int) -> None:
        """One pass that dies after so many writes."""
        decision = decide_schedule(self.made, self.facts, list(self.runs.values()), self.now)
        steps: list[Any] = [lambda one=one: self.cancel(one) for one in decision.cancel]
        if decision.create is not None:
            steps.append(lambda: self.create(decision.create))
        steps.append(lambda: self.note(decision))
        steps += [lambda one=one: self.runs.pop(one.name, None) for one in decision.delete]
        for step in steps[:writes]:
            step()

    def cancel(self, one: ScheduledRun) -> None:
        self.runs[one.name] = replace(self.runs[one.name], finished=True, cancelled=True)

    def create(self, due: DueRun) -> None:
        if due.name not in self.runs:  # or else the API server says AlreadyExists
            self.history.append(due.name)
            self.runs[due.name] = ScheduledRun(
                name=due.name, uid=due.name, created_at=self.now, finished=False
            )

    def note(self, decision: ScheduleDecision) -> None:
        last = self.facts.last_time if decision.create is None else decision.create.time
        self.facts = replace(self.facts, observed_generation=1, last_time=last, next_time=decision.next_time)


events = st.one_of(
    st.tuples(st.just("reconcile"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.integers(0, 5400)),
    st.tuples(st.just("finish"), st.booleans()),
)


@given(
    st.lists(events, max_size=60),
    st.sampled_from(["Allow", "Forbid", "Replace"]),
    st.integers(0, 2),
    st.sampled_from([None, "10m"]),
)
def test_no_time_has_two_runs_and_none_is_lost_while_passes_go_on(
    script: list[tuple[str, int]], policy: str, limit: int, deadline: str | None
) -> None:
    made = spec(
        concurrencyPolicy=policy,
        successfulHistoryLimit=limit,
        failedHistoryLimit=limit,
        startingDeadline=deadline,
    )
    life = Life(made)
    for what, number in script:
        if what == "reconcile":
            life.reconcile(number)
        elif what == "wait":
            life.now += timedelta(seconds=number)
        elif life.runs:
            name = min(life.runs)
            life.runs[name] = replace(life.runs[name], finished=True, succeeded=bool(number))
    assert len(life.history) == len(set(life.history)), "a time has had two runs"
    assert life.history == sorted(life.history)
    # From now on there is a pass at every time, and every run ends: then every time has its run.
    life.reconcile(9)
    hours = []
    for _ in range(5):
        for name in list(life.runs):
            life.runs[name] = replace(life.runs[name], finished=True, succeeded=True)
        life.now = life.facts.next_time or life.now
        hours.append(run_name("nightly", life.now))
        life.reconcile(9)
        life.reconcile(9)
        finished = [one for one in life.runs.values() if one.finished and one.succeeded]
        assert len(finished) <= limit
    assert life.history[-5:] == hours
    assert len(life.history) == len(set(life.history))
