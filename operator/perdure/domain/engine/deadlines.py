"""What time alone does to an attempt: it did not start in time, ran too long, or went silent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from perdure.domain.engine.observed import Observed
from perdure.domain.engine.outcome import EndKind, Outcome, shorten
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.engine.pod_waiting import waiting_reason
from perdure.domain.phases import Reason
from perdure.domain.records import AttemptRecord


def deadlines(
    step: PlannedStep, attempt: AttemptRecord, observed: Observed
) -> Iterator[tuple[datetime, Reason]]:
    """The moments at which an open attempt is to be ended, and why."""
    fixed = fixed_deadline(step, attempt)
    if fixed is not None:
        yield fixed
    if step.idle_timeout is not None and attempt.started_at is not None:
        yield last_sign(attempt, observed) + step.idle_timeout, Reason.IDLE_TIMEOUT


def fixed_deadline(step: PlannedStep, attempt: AttemptRecord) -> tuple[datetime, Reason] | None:
    """The one of these moments that follows from the attempt alone, whatever signs of life it gives."""
    if attempt.started_at is None:
        if step.pending_timeout is None:
            return None
        return attempt.created_at + step.pending_timeout, Reason.PENDING_TIMEOUT
    return None if step.timeout is None else (attempt.started_at + step.timeout, Reason.TIMEOUT)


def last_sign(attempt: AttemptRecord, observed: Observed) -> datetime:
    """When a started attempt last showed that it lives; its start is the first sign."""
    assert attempt.started_at is not None
    sign = observed.signs.get(attempt.key)
    if sign is None or sign[0] != attempt.number or sign[1] < attempt.started_at:
        return attempt.started_at
    return sign[1]


def overdue_outcome(
    step: PlannedStep, attempt: AttemptRecord, pod: PodFacts | None, observed: Observed, now: datetime
) -> Outcome | None:
    """The end of an attempt whose time is over; None if it is not."""
    due = [(at, reason) for at, reason in deadlines(step, attempt, observed) if at <= now]
    if not due:
        return None
    _, reason = min(due)
    if reason is Reason.PENDING_TIMEOUT:
        event = observed.warning(attempt.key, attempt.number)
        cause = (None if pod is None else waiting_reason(pod, event)) or observed.blocked.get(attempt.key)
        cause = cause or (None if event is None else (Reason.STARTING, event))
        text = f"did not start within {_text(step.pending_timeout)}"
        text += "" if cause is None else f": {cause[0].value}: {cause[1]}"
    elif reason is Reason.IDLE_TIMEOUT:
        text = f"gave no sign of life for {_text(step.idle_timeout)}: no heartbeat, progress or checkpoint"
    else:
        text = f"ran longer than {_text(step.timeout)}"
    return Outcome(kind=EndKind.FAILED, reason=reason, message=shorten(text))


def _text(duration: timedelta | None) -> str:
    assert duration is not None
    return f"{duration.total_seconds():g}s"
