"""Answers to the requests of decisions, evaluated in place."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from perdure.control.runs.payloads import with_bodies
from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.view import RunView
from perdure.domain.expressions.cel import compile_expression
from perdure.domain.expressions.evaluation import Answer, EvaluationRequest, answer

#: Bodies of all payloads that were committed, by digest: what a ledger would have.
BODIES: dict[str, bytes] = {}


def answers(requests: Iterable[EvaluationRequest]) -> dict[str, Answer]:
    """An answer to each of the requests."""
    whole = (with_bodies(request, BODIES, {}) for request in requests)
    return {request.key: answer(request, compile_expression(request.source)) for request in whole}


def answered(view: RunView, observed: Observed, now: datetime) -> Observed:
    """What was observed, with answers to all that the decision would ask for: it can be made whole."""
    while requests := decide(view, observed, now).requests:
        observed = replace(observed, answers={**observed.answers, **answers(requests.values())})
    return observed
