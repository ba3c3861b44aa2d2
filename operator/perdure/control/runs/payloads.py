"""Bodies of payloads, read from the ledger where an expression, a pod or a status needs them.

What is in memory at once is bounded: a small cache, whose use is that what was just committed is often needed
next, and what expressions that are evaluated now have named.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from perdure.control.byte_budget import ByteBudget
from perdure.control.ports import EvaluatorPort, LedgerPort
from perdure.domain.expressions.evaluation import MAX_SEEN_BYTES, Answer, EncodedValue, EvaluationRequest
from perdure.domain.payloads import Payload, StoredOutput
from perdure.domain.records import Commit, LedgerError, TaskKey, TaskRecord

#: Bytes of bodies that are kept because they were read or committed last.
CACHE_BYTES = 4 * 1024 * 1024
#: Bytes of outputs that all evaluations together have read and not used up. More wait in turn.
READING_BYTES = 64 * 1024 * 1024


class PayloadLost(LedgerError):
    """The ledger does not have the body of a payload: the run was forgotten, or changed since."""


class PayloadReader:
    """Reads bodies from the ledger, and remembers some. One for all runs."""

    def __init__(self, ledger: LedgerPort) -> None:
        self._ledger = ledger
        #: Bodies by digest, the least recently used first.
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        self.budget = ByteBudget(READING_BYTES)

    def keep(self, commit: Commit) -> None:
        """Remember bodies of a commit that memory drops now."""
        for task in commit.tasks:
            for payload in (task.input, task.output):
                if payload is not None and payload.body is not None and payload.inline is None:
                    self._remember(payload.digest, payload.body)
        if commit.run.outputs is not None and commit.run.outputs.body is not None:
            self._remember(commit.run.outputs.digest, commit.run.outputs.body)

    async def outputs(self, uid: str, wanted: Iterable[StoredOutput]) -> dict[str, bytes]:
        """Bodies of outputs of a run's tasks, by digest. Raises LedgerError."""
        found: dict[str, bytes] = {}
        missing: dict[str, StoredOutput] = {}
        for output in wanted:
            body = self._recall(output.payload.digest)
            if body is None:
                missing[output.payload.digest] = output
            else:
                found[output.payload.digest] = body
        if missing:
            keys = {digest: TaskKey(output.step, output.index) for digest, output in missing.items()}
            bodies = await self._ledger.task_payloads(uid, list(keys.values()), "output")
            for digest, key in keys.items():
                found[digest] = self._checked(bodies.get(key), missing[digest].payload)
        return found

    async def task_input(self, uid: str, task: TaskRecord) -> bytes:
        """The body of a task's input. Raises LedgerError."""
        return await self._body(uid, task.key, task.input, "input")

    async def task_output(self, uid: str, task: TaskRecord) -> bytes:
        """The body of a task's output. Raises LedgerError."""
        return await self._body(uid, task.key, task.output, "output")

    async def run_outputs(self, uid: str, payload: Payload) -> bytes:
        """The body of a run's outputs. Raises LedgerError."""
        known = payload.body or self._recall(payload.digest)
        return known or self._checked(await self._ledger.run_outputs(uid), payload)

    async def _body(
        self, uid: str, key: TaskKey, payload: Payload | None, which: Literal["input", "output"]
    ) -> bytes:
        if payload is None:
            return b"null"
        known = payload.body or self._recall(payload.digest)
        if known is not None:
            return known
        bodies = await self._ledger.task_payloads(uid, [key], which)
        return self._checked(bodies.get(key), payload)

    def _checked(self, body: bytes | None, payload: Payload) -> bytes:
        if body is None or len(body) != payload.size:
            raise PayloadLost(f"the ledger has no longer what it had: {payload.size} bytes of JSON")
        self._remember(payload.digest, body)
        return body

    def _recall(self, digest: str) -> bytes | None:
        body = self._cache.get(digest)
        if body is not None:
            self._cache.move_to_end(digest)
        return body

    def _remember(self, digest: str, body: bytes) -> None:
        if len(body) > CACHE_BYTES // 4 or digest in self._cache:
            return
        self._cache[digest] = body
        self._cached += len(body)
        while self._cached > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached -= len(oldest)


class RunEvaluator:
    """Has requests of runs answered: reads what they name, and hands them on to the evaluator."""

    def __init__(self, evaluator: EvaluatorPort, payloads: PayloadReader) -> None:
        self._evaluator = evaluator
        self._payloads = payloads

    async def evaluate(
        self, uid: str, namespace: str, requests: Sequence[EvaluationRequest]
    ) -> Mapping[str, Answer]:
        """Answers to at least one of the requests of a run; see `EvaluatorPort`. Raises LedgerError."""
        batch: list[EvaluationRequest] = []
        outputs: dict[str, StoredOutput] = {}
        for request in requests:
            own = {output.payload.digest: output for _, value in request.values for output in value.stored}
            if batch and _size((outputs | own).values()) > MAX_SEEN_BYTES:
                break
            batch.append(request)
            outputs |= own
        if not outputs:
            return await self._evaluator.evaluate(namespace, batch)
        async with self._payloads.budget.hold(_size(outputs.values())):
            bodies = await self._payloads.outputs(uid, outputs.values())
            whole: dict[bytes, EncodedValue] = {}
            batch = [with_bodies(request, bodies, whole) for request in batch]
            return await self._evaluator.evaluate(namespace, batch)


def _size(outputs: Collection[StoredOutput]) -> int:
    return sum(output.payload.size for output in outputs)


def with_bodies(
    request: EvaluationRequest, bodies: Mapping[str, bytes], whole: dict[bytes, EncodedValue]
) -> EvaluationRequest:
    """The request with values that are whole. `whole` has those of the batch: shared ones stay shared."""
    values = []
    for name, value in request.values:
        if value.stored:
            if value.digest not in whole:
                body = b"".join(
                    part if isinstance(part, bytes) else bodies[part.payload.digest] for part in value.parts
                )
                whole[value.digest] = EncodedValue((body,), value.digest)
            value = whole[value.digest]
        values.append((name, value))
    return EvaluationRequest(request.key, request.source, tuple(values))
