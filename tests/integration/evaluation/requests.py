"""Requests as decisions make them."""

from typing import Any

from perdure.domain.expressions.cel import compile_expression
from perdure.domain.expressions.evaluation import Evaluation, EvaluationPending, EvaluationRequest


def request(source: str, values: dict[str, Any] | None = None) -> EvaluationRequest:
    """The request of an expression that is too dear for a decision."""
    evaluation = Evaluation()
    try:
        given = evaluation.evaluate(compile_expression(source), values or {})
    except EvaluationPending:
        (made,) = evaluation.requests.values()
        return made
    raise AssertionError(f"{source} is cheap, and gave {given!r}")
