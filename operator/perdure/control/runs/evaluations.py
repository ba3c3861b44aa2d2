"""The evaluations that decisions, and manifests of objects, ask for: started, awaited, taken over.

A pass does not hold its worker for long while an evaluation waits for its turn: it ends, and the run is
reconciled again when the answers have come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.live_run import LiveRun
from perdure.control.runs.payloads import RunEvaluator
from perdure.domain.engine.decide import Decision
from perdure.domain.expressions.evaluation import Answer, Evaluation, EvaluationPending, EvaluationRequest

_T = TypeVar("_T")

#: Seconds for which a pass waits for answers. Later answers get a pass of their own.
PATIENCE = 0.1


class PassEvaluations:
    """Has the requests of decisions answered, one batch of a run at a time."""

    def __init__(self, evaluator: RunEvaluator, wake: Callable[[RunKey], None]) -> None:
        """`wake` has a run reconciled soon, because its answers have come."""
        self._evaluator = evaluator
        self._wake = wake
        self._under_way: set[asyncio.Task[Mapping[str, Answer]]] = set()

    async def close(self) -> None:
        """Cancel what is under way. Evaluations have no effects, and are asked for again."""
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def answer(self, live: LiveRun, decision: Decision) -> bool:
        """Have a decision's requests answered. False if that takes long: the run is woken then."""
        evaluations = live.evaluations
        # What no decision uses any more is not kept.
        evaluations.answers = {key: evaluations.answers[key] for key in decision.used}
        task = evaluations.under_way
        if not decision.requests:
            if task is not None:
                task.cancel()
                evaluations.under_way = None
            return True
        if task is None:
            requests = list(decision.requests.values())
            task = asyncio.create_task(self._evaluate(live, requests))
            evaluations.under_way = task
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        await asyncio.wait([task], timeout=PATIENCE)
        if not task.done():
            if decision.held:
                # What was observed was not decided about, and will not be reported again.
                live.agenda.request_full_pass()
            task.add_done_callback(lambda _: self._wake(live.key))
            return False
        evaluations.under_way = None
        evaluations.answers.update(task.result())
        return True

    async def _evaluate(self, live: LiveRun, requests: list[EvaluationRequest]) -> Mapping[str, Answer]:
        return await self._evaluator.evaluate(live.uid, live.key.namespace, requests)


async def evaluated(evaluator: RunEvaluator, live: LiveRun, call: Callable[[Evaluation], _T]) -> _T:
    """What `call` gives for a run once all its requests are answered.

    Raises what `call` raises, ExpressionError, and LedgerError.
    """
    answers: dict[str, Answer] = {}
    while True:
        evaluation = Evaluation(answers)
        try:
            return call(evaluation)
        except EvaluationPending:
            requests = list(evaluation.requests.values())
            answers.update(await evaluator.evaluate(live.uid, live.key.namespace, requests))
