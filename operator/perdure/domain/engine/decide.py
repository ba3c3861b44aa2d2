"""What happens next to a run: the one place where phases change.

`decide` is pure. It takes the run, what was observed of its pods and agents, and the time, and gives the
changes to commit. The same arguments give the same decision, so a decision can be replayed, and one that was
lost in a crash is simply made again. What to do about it in the cluster is not part of a decision: it
follows from what was committed (`control/runs/actuator.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter

from perdure.domain.engine.attempts import note_start
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.concurrency import wants
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.outcome import LOST_AFTER
from perdure.domain.engine.run_control import apply_cancel, apply_deadline, apply_pause, main_ended, stop_rest
from perdure.domain.engine.run_end import end_run, finish
from perdure.domain.engine.steps import advance, end_step
from perdure.domain.engine.task_end import end_task
from perdure.domain.engine.view import RunView
from perdure.domain.events import EventType
from perdure.domain.expressions.evaluation import EvaluationPending, EvaluationRequest
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Commit, TaskKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Changes to commit, and when to decide again if nothing happens before."""

    commit: Commit | None
    requeue_at: datetime | None = None
    #: There is more to start; decide again after this commit.
    more: bool = False
    #: Tasks that are not made before it is known whether there is a result under their cache keys; decide
    #: again with the answers.
    questions: Mapping[TaskKey, str] = field(default_factory=dict)
    #: What is to be evaluated before the decision can be whole, by key; decide again with the answers
    #: (`Observed.answers`).
    requests: Mapping[str, EvaluationRequest] = field(default_factory=dict)
    #: Keys of the answers that this decision used: more, if less is remembered of earlier decisions.
    used: frozenset[str] = field(default=frozenset(), compare=False)
    #: Nothing was decided: what was observed is to be part of the next decision as well.
    held: bool = False
    #: Attempts that would be started if there were slots for them.
    wants: int = 0


def decide(view: RunView, observed: Observed, now: datetime) -> Decision:
    """Take a run as far as it can go now."""
    if view.run.phase.terminal:
        return Decision(commit=None)
    changes = ChangeSet(view, now, observed)
    if view.run.version == 0:
        changes.event(EventType.WORKFLOW_CREATED, generation=view.run.generation)
    if observed.deleted:
        _delete(changes)
        return Decision(commit=changes.commit())
    apply_cancel(changes)
    # Observations precede a pause that starts in this decision, and fall into a pause that ends in it.
    try:
        _observe(changes)
    except EvaluationPending:
        # How an attempt ended is one observation, and whether it is tried again is decided with it.
        requests = changes.evaluation.requests
        return Decision(commit=None, requests=requests, used=frozenset(changes.evaluation.used), held=True)
    apply_deadline(changes)
    apply_pause(changes)
    stop_rest(changes)
    _start_what_is_due(changes)
    more = _advance(changes)
    finish(changes)
    if changes.run.phase.terminal:
        return Decision(commit=changes.commit())
    return Decision(
        commit=changes.commit(),
        requeue_at=_requeue_at(changes),
        more=more,
        questions=changes.questions,
        requests=changes.evaluation.requests,
        used=frozenset(changes.evaluation.used),
        wants=wants(changes),
    )


def _observe(changes: ChangeSet) -> None:
    """Record what was observed. Raises EvaluationPending if it is not known what follows from it."""
    observed = changes.observed
    seen = (
        observed.pods.keys()
        | observed.gone
        | observed.reports.keys()
        | observed.refusals.keys()
        | observed.children.keys()
        | observed.signals.keys()
    )
    overdue = frozenset() if changes.paused else frozenset(changes.overdue())
    pending = False
    for key in sorted(overdue.union(seen)):
        task = changes.task(key)
        if task is not None and not task.phase.terminal:
            step = changes.plan.steps[key.step]
            try:
                step.kind.observe(changes, step, task, overdue=key in overdue)
            except EvaluationPending:
                pending = True
    if pending:
        raise EvaluationPending


def _start_what_is_due(changes: ChangeSet) -> None:
    """Start what waited for a time that has come, or for nothing but its turn."""
    if changes.paused:
        return
    failing = changes.failing
    for task in sorted([*changes.due(), *changes.ready()], key=attrgetter("key")):
        step = changes.plan.steps[task.key.step]
        step.kind.due(changes, step, task)
    if changes.failing and not failing:
        # The time of a task was its timeout, and fails the run. What that stops is stopped by this decision:
        # nothing would wake the run for another one.
        stop_rest(changes)


def _advance(changes: ChangeSet) -> bool:
    """Take the steps as far as they go. True if there is more to start at once."""
    failing = changes.failing
    more = advance(changes, changes.plan.order)
    if changes.failing and not failing and changes.plan.settings.failure_policy != "RunAll":
        # A step failed for its own expression: those that were evaluated before it did not know. What they
        # asked for and wanted is asked for again, if it is still wanted.
        stop_rest(changes)
        advance(changes, changes.plan.order)
        changes.discard_requests()
        more = True
    elif not more and main_ended(changes):
        more = advance(changes, changes.plan.finally_order)
    return more


def _delete(changes: ChangeSet) -> None:
    """Stop everything, because the object was deleted and its pods with it. Starts are still recorded."""
    message = f"the {changes.run.kind} was deleted"
    for task in changes.live_tasks():
        attempt = changes.open_attempt(task.key)
        if attempt is not None:
            task, attempt = note_start(changes, changes.plan.steps[task.key.step], task, attempt)
            changes.put_attempt(
                replace(attempt, closed_at=changes.now, outcome=Phase.CANCELLED, reason=Reason.DELETED)
            )
        end_task(changes, task, Phase.CANCELLED, Reason.DELETED, message)
    for name in (*changes.plan.order, *changes.plan.finally_order):
        record = changes.step(name)
        if record is None or not record.phase.terminal:
            end_step(changes, changes.plan.steps[name], Phase.CANCELLED, Reason.DELETED, message, record)
    end_run(changes, Phase.CANCELLED, Reason.DELETED, message)


def _requeue_at(changes: ChangeSet) -> datetime | None:
    """The next moment at which time alone changes something. In a run that is paused no timer runs."""
    observed = changes.observed
    times = [
        pod.deletion + LOST_AFTER
        for key, pod in observed.pods.items()
        if pod.deletion is not None
        and (attempt := changes.open_attempt(key)) is not None
        and attempt.number == pod.attempt
    ]
    if changes.paused:
        return min(times, default=None)
    times += [at for at in (changes.next_due(), changes.next_deadline()) if at is not None]
    if changes.run.deadline_at is not None and changes.run.stop is None and not main_ended(changes):
        times.append(changes.run.deadline_at)
    return min(times, default=None)
