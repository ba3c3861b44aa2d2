"""What happens next to a run: the one place where phases change.

`decide` is pure. It takes the run, what was observed of its pods and agents, and the time, and gives the
changes to commit. The same arguments give the same decision, so a decision can be replayed, and one that was
lost in a crash is simply made again. What to do about it in the cluster is not part of a decision: it
follows from what was committed (`control/actor.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from perdure.domain.attempts import end_task, observe_attempt, start_attempt
from perdure.domain.cel import ExpressionError
from perdure.domain.draft import Draft
from perdure.domain.observed import Observed
from perdure.domain.outcome import LOST_AFTER, shorten
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Commit
from perdure.domain.scope import scope, step_values
from perdure.domain.steps import advance, end_step
from perdure.domain.templating import render
from perdure.domain.view import RunView


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Changes to commit, and when to look again if nothing happens before."""

    commit: Commit | None
    requeue_at: datetime | None = None
    #: There is more to start; decide again after this commit.
    more: bool = False


def decide(view: RunView, observed: Observed, now: datetime) -> Decision:
    """Take a run as far as it can go now."""
    if view.run.phase.terminal:
        return Decision(commit=None)
    draft = Draft(view, now)
    if view.run.version == 0:
        draft.event("workflow.created", generation=view.run.generation)
    if observed.deleted:
        _cancel(draft)
        return Decision(commit=draft.commit())
    for key in sorted(
        observed.pods.keys() | observed.gone | observed.reports.keys() | observed.refusals.keys()
    ):
        observe_attempt(draft, key, observed)
    for key in sorted(view.delayed):
        task = draft.task(key)
        if task is not None and task.retry_at is not None and task.retry_at <= now:
            start_attempt(draft, task)
    more = advance(draft)
    _finish(draft)
    return Decision(commit=draft.commit(), requeue_at=_requeue_at(draft, observed), more=more)


def _finish(draft: Draft) -> None:
    """End the run once all its steps have ended."""
    records = [draft.step(name) for name in draft.plan.order]
    if any(record is None or not record.phase.terminal for record in records):
        return
    failed = [record for record in records if record is not None and record.phase is Phase.FAILED]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        text = f"step {failed[0].name!r} failed{more}: " if failed[0].name else ""
        _end_run(draft, Phase.FAILED, failed[0].reason, shorten(text + failed[0].message))
        return
    try:
        names = scope(draft, step_values(draft, draft.plan.order) if draft.plan.outputs else {})
        outputs = render(draft.plan.outputs, names, "spec.outputs")
    except ExpressionError as error:
        _end_run(draft, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        return
    draft.replace_run(outputs=outputs)
    _end_run(draft, Phase.SUCCEEDED, None, "")


def _end_run(draft: Draft, phase: Phase, reason: Reason | None, message: str) -> None:
    """End the run in a terminal phase, from which its retention counts."""
    draft.replace_run(
        phase=phase,
        reason=reason,
        message=message,
        finished_at=draft.now,
        expires_at=draft.now + draft.plan.retention,
    )
    draft.event(f"workflow.{phase.value.lower()}", reason=reason, message=message or None)


def _cancel(draft: Draft) -> None:
    """Stop everything, because the object was deleted: its pods go with it."""
    message = f"the {draft.run.kind} was deleted"
    for key in sorted(draft.view.live):
        attempt = draft.open_attempt(key)
        if attempt is not None:
            draft.put_attempt(
                replace(attempt, closed_at=draft.now, outcome=Phase.CANCELLED, reason=Reason.DELETED)
            )
        task = draft.task(key)
        assert task is not None
        end_task(draft, task, Phase.CANCELLED, Reason.DELETED, message)
    for name in draft.plan.order:
        record = draft.step(name)
        if record is None or not record.phase.terminal:
            end_step(draft, draft.plan.steps[name], Phase.CANCELLED, Reason.DELETED, message, record)
    _end_run(draft, Phase.CANCELLED, Reason.DELETED, message)


def _requeue_at(draft: Draft, observed: Observed) -> datetime | None:
    """The next moment at which time alone changes something."""
    times = [task.retry_at for task in draft.delayed() if task.retry_at is not None]
    times += [
        pod.deletion + LOST_AFTER + timedelta(milliseconds=1)
        for key, pod in observed.pods.items()
        if pod.deletion is not None and not pod.ended and draft.open_attempt(key) is not None
    ]
    return min(times, default=None)
