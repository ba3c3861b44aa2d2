"""The rules of events: they say what the records say, once each, in an order that makes sense."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from perdure.domain.engine.timer_step import TimerStep
from perdure.domain.events import DATA, EventType
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import WORKFLOW, Commit, PendingEvent

if TYPE_CHECKING:
    from tests.unit.domain.runs import Run

DISRUPTIONS = {Reason.DISRUPTED, Reason.INTERRUPTED, Reason.SUPERSEDED}
ENDS = {
    Phase.SUCCEEDED: "succeeded",
    Phase.FAILED: "failed",
    Phase.CANCELLED: "cancelled",
    Phase.SKIPPED: "skipped",
}
#: The types that follow from the records. Any other type belongs to a step kind, whose tests check it.
FROM_RECORDS = {
    f"{about}.{what}"
    for about, words in (
        ("workflow", "created started paused resumed succeeded failed cancelled"),
        ("task", "scheduled started checkpointed progress retrying disrupted"),
        ("task", "succeeded failed cancelled skipped"),
    )
    for what in words.split()
}


def check_events(before: Run, commit: Commit) -> None:
    """Events say what the records say: once each, none beyond."""
    expected: Counter[tuple[str, str | None, int | None]] = Counter()
    names = {task.key: task.name for task in (*before.tasks.values(), *commit.tasks)}
    for task in commit.tasks:
        if task.phase.terminal:
            expected[f"task.{ENDS[task.phase]}", task.name, task.attempt or None] += 1
        timer = isinstance(before.view.plan.steps[task.key.step].kind, TimerStep)
        begins = timer and before.tasks.get(task.key) is None
        # One that is over as it begins has not started; one that begins and is then stopped has.
        if begins and task.phase in (Phase.RUNNING, Phase.CANCELLED):
            expected["task.started", task.name, None] += 1
    retried = {task.key: task.retries for task in before.tasks.values()}
    final = {task.key: task for task in commit.tasks}
    for attempt in commit.attempts:
        old = before.attempts.get((attempt.key, attempt.number))
        name = names[attempt.key]
        if old is None:
            expected["task.scheduled", name, attempt.number] += 1
        if attempt.started_at is not None and (old is None or old.started_at is None):
            expected["task.started", name, attempt.number] += 1
        if attempt.closed_at is not None and attempt.outcome is Phase.FAILED:
            if attempt.reason in DISRUPTIONS:
                expected["task.disrupted", name, attempt.number] += 1
            elif final[attempt.key].retries > retried.get(attempt.key, 0):
                expected["task.retrying", name, attempt.number] += 1
    has_tasks = {key.step for key in before.tasks.keys() | final.keys()}
    for step in commit.steps:
        if step.phase is Phase.SKIPPED and step.name not in has_tasks:
            expected["task.skipped", None, None] += 1
    is_workflow = before.run.kind == WORKFLOW
    if is_workflow:
        expected.update(("workflow." + word, None, None) for word in _run_events(before, commit))
    elif commit.run.phase.terminal and not final and not before.tasks:
        expected[f"task.{ENDS[commit.run.phase]}", before.run.name, None] += 1
    own = [event for event in commit.events if event.type not in FROM_RECORDS]
    assert {event.task for event in own} <= set(names.values()), "a kind's event is about a task"
    found = Counter((event.type, event.task, event.attempt) for event in commit.events if event not in own)
    assert found == expected
    assert all(event.time == before.now for event in commit.events)
    for event in commit.events:
        assert isinstance(event.type, EventType)
        assert event.data.keys() <= set(DATA[event.type]), f"docs/events.md does not explain {event}"
        assert None not in event.data.values()
    _check_order(before, commit.events, is_workflow=is_workflow, ended=commit.run.phase.terminal)


def _run_events(before: Run, commit: Commit) -> list[str]:
    words = []
    if before.run.version == 0:
        words.append("created")
    if before.run.started_at is None and commit.run.started_at is not None:
        words.append("started")
    was_paused, is_paused = before.run.paused_at is not None, commit.run.phase is Phase.PAUSED
    if (
        was_paused
        and not is_paused
        and before.desired == "Running"
        and commit.run.reason is not Reason.DELETED
    ):
        words.append("resumed")
    # A run may come to its end in the decision that would pause it.
    if not was_paused and any(event.type == "workflow.paused" for event in commit.events):
        assert before.desired == "Paused"
        assert is_paused or commit.run.phase.terminal
        words.append("paused")
    elif is_paused and not was_paused:
        words.append("paused")
    if commit.run.phase.terminal:
        words.append(ENDS[commit.run.phase])
    return words


def _check_order(before: Run, events: tuple[PendingEvent, ...], *, is_workflow: bool, ended: bool) -> None:
    types = [event.type for event in events]
    if is_workflow and types:
        assert (types[0] == "workflow.created") == (before.run.version == 0)
    if is_workflow and ended:
        assert types[-1].startswith("workflow.")
    for position, event in enumerate(events):
        # An attempt is scheduled, then starts, and what ends it comes last.
        own = [
            other.type
            for other in events[:position]
            if event.task is not None and (other.task, other.attempt) == (event.task, event.attempt)
        ]
        if event.type == "task.started":
            assert not set(own) - {"task.scheduled"}
        if event.type in ("task.retrying", "task.disrupted", "task.succeeded"):
            assert not set(own) - {"task.scheduled", "task.started"}
