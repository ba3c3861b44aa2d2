"""What keeps a step's tasks from starting: the end of the run, too many failures, and limits of all kinds."""

from __future__ import annotations

import sys

from perdure.domain.draft import Draft
from perdure.domain.phases import Phase, Reason
from perdure.domain.plan import PlannedStep
from perdure.domain.records import StepRecord


def starts_nothing(draft: Draft, step: PlannedStep) -> bool:
    """True if the run has come to a point at which no task of this step is started any more."""
    if step.is_finally:
        return False
    if draft.run.stop is not None:
        return True
    return draft.failing and draft.plan.failure_policy != "RunAll"


def is_cut(draft: Draft, step: PlannedStep, record: StepRecord) -> bool:
    """True if the step starts no more of its tasks: the run is at its end, or too many of them failed."""
    if starts_nothing(draft, step):
        return True
    exceeded = draft.counts(step.name)[Phase.FAILED] > step.failures_borne(record.total)
    return exceeded and step.max_failures is not None


def room(draft: Draft, step: PlannedStep) -> tuple[int, str]:
    """How many more tasks of a step its own and the run's parallelism let in, and the tighter one's name."""
    number, limit = sys.maxsize, ""
    if step.parallelism is not None:
        live = sum(count for phase, count in draft.counts(step.name).items() if not phase.terminal)
        number = step.parallelism - live - draft.asked(step.name)
        limit = f"the step's parallelism {step.parallelism}"
    if draft.plan.parallelism is not None and step.kind != "wait":
        left = draft.plan.parallelism - draft.working - len(draft.questions)
        if left < number:
            number, limit = left, f"parallelism {draft.plan.parallelism}"
    return max(0, number), limit


def waits_for_slot(draft: Draft, step: PlannedStep) -> bool:
    """True if there is no slot, and a task of the step shows that it waits for one."""
    if step.kind != "agent" or draft.slots is None or draft.slots > 0:
        return False
    return any(task.key.step == step.name and task.reason is Reason.LIMIT for task in draft.ready())


def wants(draft: Draft) -> int:
    """How many attempts this decision would have started as well if there had been slots."""
    number = draft.wants
    left = sys.maxsize
    if draft.plan.parallelism is not None:
        left = draft.plan.parallelism - draft.working - len(draft.questions)
    for name, remaining in draft.unmade.items():
        more = min(remaining, room(draft, draft.plan.steps[name])[0], max(0, left))
        number += more
        left -= more
    return number
