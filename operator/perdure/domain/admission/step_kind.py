"""The part of a step kind that admission asks: the check of a step, and what its run needs to know."""

from __future__ import annotations

from typing import Any, Protocol, cast

from perdure.api.step import Step
from perdure.api.step_kind import StepSpec
from perdure.domain.admission.context import CheckedStep, StepContext


class StepAdmission(StepSpec, Protocol):
    """The manifest side of a step kind, admission included."""

    def check(self, step: Step, block: Any, context: StepContext) -> CheckedStep:
        """Check the block of a step, None if the kind is implied and the step has none.

        Problems and missing templates are reported to the context. The result has the fields that the kind
        adds to the step's snapshot: the block under the kind's field, and other fields that only this kind
        needs.
        """
        ...


def kind_of_step(step: Step) -> StepAdmission:
    """The kind of a step, typed for admission: registries hold whole kinds, `api` sees a part of each."""
    return cast(StepAdmission, step.kind)
