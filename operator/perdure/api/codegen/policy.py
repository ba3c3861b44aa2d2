"""The parts of the chart's ValidatingAdmissionPolicy that depend on the step kinds.

CEL rules of a CRD see no free-form fields, so the policy refuses those that a kind excludes. Which fields
these are is said once, in the kind's `excludes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from perdure.api.codegen.generated import replace_lines
from perdure.api.step_kind import FREE_FORM, Excluded, StepSpec, joined


def updated(text: str, kinds: Sequence[StepSpec]) -> str:
    """The policy's YAML with its generated lines up to date. Raises ValueError if it lacks their markers."""
    text = replace_lines(text, "variables of step kinds", "".join(_variables(kinds)))
    return replace_lines(text, "validations of step kinds", "".join(_validations(kinds)))


def _variables(kinds: Sequence[StepSpec]) -> Iterator[str]:
    """For each free-form field: the steps that have the field and a kind that excludes it."""
    for name, excluding in _excluded(kinds):
        given = " || ".join(f"has(s.{kind.field})" for kind, _ in excluding)
        yield f"    - name: {_variable(name)}\n"
        yield "      expression: >-\n"
        yield f"        (variables.steps + variables.last).filter(s, has(s.{name}) && ({given}))\n"


def _validations(kinds: Sequence[StepSpec]) -> Iterator[str]:
    for name, excluding in _excluded(kinds):
        variable = f"variables.{_variable(name)}"
        fields = joined([kind.field for kind, _ in excluding], "or")
        message = f"spec.steps: a step with {fields} takes no {name}"
        remedies = ". ".join(f"With {kind.field}: {excluded.remedy}" for kind, excluded in excluding)
        yield f"    - expression: size({variable}) == 0\n"
        yield "      reason: Invalid\n"
        yield f"      message: '{message}'\n"
        yield "      messageExpression: >-\n"
        yield f"        '{message}: ' + {variable}.map(s, s.name).join(', ')\n"
        yield f"        + {json.dumps(f'. {remedies}')}\n"


def _excluded(kinds: Sequence[StepSpec]) -> Iterator[tuple[str, list[tuple[StepSpec, Excluded]]]]:
    """The free-form fields that some kinds exclude, each with those kinds and what they say of it."""
    for name in FREE_FORM:
        found = [(kind, excluded) for kind in kinds for excluded in kind.excludes if name in excluded.fields]
        if found:
            yield name, found


def _variable(name: str) -> str:
    return f"excluded{name[:1].upper()}{name[1:]}"
