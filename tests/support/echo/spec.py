"""The manifest side of echo steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from perdure.api.base import Model
from perdure.api.step import Step
from perdure.api.step_kind import Excluded
from perdure.domain.admission.context import CheckedStep, StepContext
from perdure.domain.admission.expression_check import check_text
from perdure.domain.admission.step_kind import StepAdmission


class Echo(Model):
    """A step that waits for a signal."""

    #: The signal's name; may hold `${}` expressions.
    signal: Annotated[str, Field(min_length=1, max_length=512)]


class EchoSpec(StepAdmission):
    """A wait for a signal, with a timeout and a cache like an agent's."""

    field = "echo"
    noun = "an echo"
    block = Echo
    description = "Waits for a signal, and gives its payload."
    stand_in = {"signal": "unknown"}
    excludes = (
        Excluded(
            fields=("retry", "disruptions", "pendingTimeout", "idleTimeout"),
            remedy="remove it",
            remedy_for_all="nothing of it can fail",
        ),
        Excluded(fields=("input",), remedy="put it into the signal's payload"),
    )
    excludes_because = "which only listens"
    shape = ("{{", "}}")

    def marks(self, block: Echo) -> Iterator[str]:
        yield f"signal {block.signal}"

    def check(self, step: Step, block: Echo, context: StepContext) -> CheckedStep:
        needed = check_text(block.signal, f"{context.path}.echo.signal", context.scope, context.findings)
        return CheckedStep({"echo": block.manifest()}, needed)
