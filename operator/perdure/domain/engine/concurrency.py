"""What keeps a step's tasks from starting: the end of the run, too many failures, and limits of all kinds."""

from __future__ import annotations

import sys

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import StepRecord


def starts_nothing(changes: ChangeSet, step: PlannedStep) -> bool:
    """True if the run has come to a point at which no task of this step is started any more."""
    if step.is_finally:
        return False
    if changes.run.stop is not None:
        return True
    return changes.failing and changes.plan.settings.failure_policy != "RunAll"


def is_cut(changes: ChangeSet, step: PlannedStep, record: StepRecord) -> bool:
    """True if the step starts no more of its tasks: the run is at its end, or too many of them failed."""
    if starts_nothing(changes, step):
        return True
    exceeded = changes.counts(step.name)[Phase.FAILED] > step.tolerated_failures(record.total)
    return exceeded and step.max_failures is not None


def room(changes: ChangeSet, step: PlannedStep) -> tuple[int, str]:
    """How many more tasks of a step its own and the run's parallelism admit, and the tighter one's name."""
    number, limit = sys.maxsize, ""
    if step.parallelism is not None:
        live = sum(count for phase, count in changes.counts(step.name).items() if not phase.terminal)
        number = step.parallelism - live - changes.asked(step.name)
        limit = f"the step's parallelism {step.parallelism}"
    if changes.plan.settings.parallelism is not None and step.kind.counts.parallelism:
        left = changes.plan.settings.parallelism - changes.working - changes.asked_total
        if left < number:
            number, limit = left, f"parallelism {changes.plan.settings.parallelism}"
    return max(0, number), limit


def waits_for_slot(changes: ChangeSet, step: PlannedStep) -> bool:
    """True if there is no slot, and a task of the step shows that it waits for one."""
    if not step.kind.counts.slot or changes.slots is None or changes.slots > 0:
        return False
    return any(task.key.step == step.name and task.reason is Reason.LIMIT for task in changes.ready())


def wants(changes: ChangeSet) -> int:
    """How many attempts this decision would have started as well if there had been slots."""
    number = changes.wants
    left = sys.maxsize
    if changes.plan.settings.parallelism is not None:
        left = changes.plan.settings.parallelism - changes.working - changes.asked_total
    for name, remaining in changes.unmade.items():
        more = min(remaining, room(changes, changes.plan.steps[name])[0], max(0, left))
        number += more
        left -= more
    return number
