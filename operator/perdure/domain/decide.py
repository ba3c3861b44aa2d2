"""What happens next to a run: the one place where phases change.

`decide` is pure. It takes the run, what was observed of its pods and agents, and the time, and gives the
changes to commit. The same arguments give the same decision, so a decision can be replayed, and one that was
lost in a crash is simply made again. What to do about it in the cluster is not part of a decision: it
follows from what was committed (`control/actor.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter

from perdure.domain.attempts import end_task, note_start, observe_attempt, start_attempt
from perdure.domain.draft import Draft
from perdure.domain.ending import end_run, finish
from perdure.domain.limits import wants
from perdure.domain.observed import Observed
from perdure.domain.outcome import LOST_AFTER
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Commit, TaskKey
from perdure.domain.steps import advance, end_step
from perdure.domain.stopping import heed_cancel, heed_deadline, heed_pause, main_ended, stop_rest
from perdure.domain.view import RunView


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Changes to commit, and when to look again if nothing happens before."""

    commit: Commit | None
    requeue_at: datetime | None = None
    #: There is more to start; decide again after this commit.
    more: bool = False
    #: Tasks that are not made before it is known whether there is a result under their cache keys; decide
    #: again with the answers.
    questions: Mapping[TaskKey, str] = field(default_factory=dict)
    #: Attempts that would be started if there were slots for them.
    wants: int = 0


def decide(view: RunView, observed: Observed, now: datetime) -> Decision:
    """Take a run as far as it can go now."""
    if view.run.phase.terminal:
        return Decision(commit=None)
    draft = Draft(view, now, observed)
    if view.run.version == 0:
        draft.event("workflow.created", generation=view.run.generation)
    if observed.deleted:
        _delete(draft)
        return Decision(commit=draft.commit())
    heed_cancel(draft)
    # What was seen happened before a pause that is heeded now, and while a pause lasted that ends now.
    _observe(draft)
    heed_deadline(draft)
    heed_pause(draft)
    stop_rest(draft)
    _start_what_is_due(draft)
    more = _advance(draft)
    finish(draft)
    if draft.run.phase.terminal:
        return Decision(commit=draft.commit())
    return Decision(
        commit=draft.commit(),
        requeue_at=_requeue_at(draft),
        more=more,
        questions=draft.questions,
        wants=wants(draft),
    )


def _observe(draft: Draft) -> None:
    observed = draft.observed
    seen = (
        observed.pods.keys()
        | observed.gone
        | observed.reports.keys()
        | observed.refusals.keys()
        | observed.children.keys()
    )
    overdue = frozenset() if draft.paused else frozenset(draft.overdue())
    for key in sorted(overdue.union(seen)):
        observe_attempt(draft, key, observed, overdue=key in overdue)


def _start_what_is_due(draft: Draft) -> None:
    """Start what waited for a time that has come, or for nothing but its turn."""
    if draft.paused:
        return
    for task in sorted([*draft.due(), *draft.ready()], key=attrgetter("key")):
        if draft.plan.steps[task.key.step].kind == "wait":
            end_task(draft, task, Phase.SUCCEEDED)
        else:
            start_attempt(draft, task)


def _advance(draft: Draft) -> bool:
    """Take the steps as far as they go. True if there is more to start at once."""
    failing = draft.failing
    more = advance(draft, draft.plan.order)
    if draft.failing and not failing and draft.plan.failure_policy != "RunAll":
        # A step failed for its own expression: those that were looked at before it did not know. What they
        # asked for and wanted is asked for again, if it is still wanted.
        stop_rest(draft)
        advance(draft, draft.plan.order)
        draft.forget_wishes()
        more = True
    elif not more and main_ended(draft):
        more = advance(draft, draft.plan.finally_order)
    return more


def _delete(draft: Draft) -> None:
    """Stop everything, because the object was deleted: its pods go with it. What had started is told of."""
    message = f"the {draft.run.kind} was deleted"
    for task in draft.live_tasks():
        attempt = draft.open_attempt(task.key)
        if attempt is not None:
            task, attempt = note_start(draft, task, attempt, draft.observed)
            draft.put_attempt(
                replace(attempt, closed_at=draft.now, outcome=Phase.CANCELLED, reason=Reason.DELETED)
            )
        end_task(draft, task, Phase.CANCELLED, Reason.DELETED, message)
    for name in (*draft.plan.order, *draft.plan.finally_order):
        record = draft.step(name)
        if record is None or not record.phase.terminal:
            end_step(draft, draft.plan.steps[name], Phase.CANCELLED, Reason.DELETED, message, record)
    end_run(draft, Phase.CANCELLED, Reason.DELETED, message)


def _requeue_at(draft: Draft) -> datetime | None:
    """The next moment at which time alone changes something. In a run that is paused no timer runs."""
    observed = draft.observed
    times = [
        pod.deletion + LOST_AFTER
        for key, pod in observed.pods.items()
        if pod.deletion is not None
        and (attempt := draft.open_attempt(key)) is not None
        and attempt.number == pod.attempt
    ]
    if draft.paused:
        return min(times, default=None)
    times += [at for at in (draft.next_due(), draft.next_deadline()) if at is not None]
    if draft.run.deadline_at is not None and draft.run.stop is None and not main_ended(draft):
        times.append(draft.run.deadline_at)
    return min(times, default=None)
