"""The manifest side of wait steps: a timer, and nothing runs."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from perdure.api.base import EXPRESSION_PATTERN, MAX_EXPRESSION, Model, parse_duration, parse_time
from perdure.api.step import Step
from perdure.api.step_kind import Excluded
from perdure.domain.admission.context import CheckedStep, StepContext
from perdure.domain.admission.expression_check import check_single
from perdure.domain.admission.step_kind import StepAdmission
from perdure.domain.expressions.templating import has_expression

_ONE_OF_TWO: Final[JsonDict] = {"minProperties": 1, "maxProperties": 1}


def _is_expression(text: str) -> bool:
    return re.fullmatch(EXPRESSION_PATTERN, text) is not None


def _checked_duration(text: str) -> str:
    if _is_expression(text):
        return text.strip()
    parse_duration(text)
    return text


def _checked_until(text: str) -> str:
    if _is_expression(text):
        return text.strip()
    parse_time(text)
    return text


_Duration = Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION), AfterValidator(_checked_duration)]
_Until = Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION), AfterValidator(_checked_until)]


class Wait(Model):
    """A step that only waits: for a duration or until a time, exactly one of them."""

    model_config = ConfigDict(json_schema_extra=_ONE_OF_TWO)

    #: How long, from the moment at which the step could start: such as `10m`, or one `${}` expression that
    #: gives such text or a duration.
    duration: _Duration | None = None
    #: Until when: a time such as `2026-11-21T08:00:00Z`, or one `${}` expression that gives such text or a
    #: timestamp. A time that has passed ends the step at once.
    until: _Until | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Wait:
        if (self.duration is None) == (self.until is None):
            raise ValueError("takes exactly one of duration and until")
        return self


class WaitSpec(StepAdmission):
    """A wait for a duration or until a time."""

    field = "wait"
    noun = "a wait"
    block: ClassVar[type[Model]] = Wait
    description = "Waits instead of running an agent."
    stand_in = {"duration": "0s"}
    excludes: ClassVar[tuple[Excluded, ...]] = (
        Excluded(
            fields=(
                "retry",
                "disruptions",
                "timeout",
                "pendingTimeout",
                "idleTimeout",
                "cache",
                "repeat",
                "input",
            ),
            remedy="remove it, or make a step of its own",
        ),
    )
    excludes_because = "which runs nothing"
    other_block_remedy = "remove it, or make a step of its own"
    shape = ("([", "])")

    def check(self, step: Step, block: Wait, context: StepContext) -> CheckedStep:
        needed: dict[str, str] = {}
        for name, text in (("duration", block.duration), ("until", block.until)):
            if text is not None and has_expression(text):
                needed |= check_single(text, f"{context.path}.wait.{name}", context.scope, context.findings)
        return CheckedStep({"wait": block.manifest()}, needed)
