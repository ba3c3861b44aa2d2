"""The evaluator that needs no other process: for the simulated tier, and for programs that run no tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from perdure.domain.expressions.cel import compile_expression
from perdure.domain.expressions.evaluation import Answer, EvaluationRequest, answer


class InProcessEvaluator:
    """Evaluates in the caller's thread, one request after the other; see `control.ports.EvaluatorPort`."""

    async def evaluate(self, namespace: str, requests: Sequence[EvaluationRequest]) -> Mapping[str, Answer]:
        answers = {}
        for request in requests:
            # Other tasks have their turn between any two requests, as with an evaluator in another process.
            await asyncio.sleep(0)
            answers[request.key] = answer(request, compile_expression(request.source))
        return answers
