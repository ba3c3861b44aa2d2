"""`/agent/v1`: what an agent may do to its own task, and nothing else.

Each handler records one fact. It answers only when the ledger has it: an agent that reads 2xx may die the
next moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from starlette.responses import Response

from perdure.domain.records import Report
from perdure.gateway import fields
from perdure.gateway.bodies import Body, Hold, MemoryBudget
from perdure.gateway.limits import Limits
from perdure.gateway.pacing import ProgressPacer
from perdure.gateway.ports import AgentLedger
from perdure.gateway.problems import Kind, Problem
from perdure.gateway.sessions import Sessions
from perdure.gateway.transfer import Transfer
from perdure.kube.tokens import AgentIdentity
from perdure.ledger.types import AgentSession, Checkpoint, CorruptCheckpoint


@dataclass(slots=True)
class Call:
    """One authenticated request."""

    identity: AgentIdentity
    headers: dict[bytes, bytes]
    query: bytes
    path_params: dict[str, Any]
    body: Body
    #: Shares of the memory budget; released when the answer has been sent.
    holds: list[Hold] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentApi:
    """The handlers. Each may raise Problem, and what the ledger raises."""

    ledger: AgentLedger
    sessions: Sessions
    pacer: ProgressPacer
    budget: MemoryBudget
    limits: Limits
    clock: Callable[[], datetime]

    async def task(self, call: Call) -> Response:
        """The task's input, which attempt this is, and where to go on from."""
        session = await self.sessions.for_reading(call.identity)
        return _json(
            {
                "workflow": session.run_name,
                "namespace": session.namespace,
                "task": session.task_name,
                "step": session.key.step,
                "index": session.key.index if session.key.index >= 0 else None,
                "attempt": session.attempt,
                "input": session.input,
                "checkpoint": await self._about_latest(call, session),
            }
        )

    async def save_checkpoint(self, call: Call) -> Response:
        """201 with the sequence number, once the bytes are durable."""
        label = fields.label(call.headers.get(b"perdure-label"), call.query, limit=self.limits.label)
        content_type = fields.content_type(call.headers.get(b"content-type"))
        # Before the body is read: an unknown pod must not cost us its upload.
        session = await self.sessions.for_writing(call.identity)
        data = await self._read(call, self.limits.checkpoint, what="checkpoint")
        sequence = await self.ledger.write_checkpoint(
            session, data, content_type=content_type, label=label, now=self.clock()
        )
        return _json({"sequence": sequence}, status=201)

    async def latest_checkpoint(self, call: Call) -> Response:
        """The newest checkpoint's bytes, whichever attempt saved it."""
        session = await self.sessions.for_reading(call.identity)
        if session.checkpoint_sequence is None:
            raise _no_checkpoint("this task has no checkpoint yet; start from its input")
        await self._reserve(call)
        found = await self.ledger.latest_checkpoint(session)
        if found is None:
            raise _no_checkpoint("this task has no checkpoint yet; start from its input")
        return _bytes(call, found)

    async def one_checkpoint(self, call: Call) -> Response:
        """One checkpoint's bytes."""
        session = await self.sessions.for_reading(call.identity)
        sequence = int(call.path_params["sequence"])
        # Numbers beyond the newest are not looked for; they may be larger than the ledger can hold.
        if session.checkpoint_sequence is None or not 1 <= sequence <= session.checkpoint_sequence:
            raise _no_checkpoint(f"this task has no checkpoint {sequence}; ask for latest")
        await self._reserve(call)
        found = await self.ledger.checkpoint(session, sequence)
        if found is None:
            raise _no_checkpoint(f"checkpoint {sequence} is no longer kept; ask for latest")
        return _bytes(call, found)

    async def progress(self, call: Call) -> Response:
        """202: taken; it becomes an event soon, unless a newer one overtakes it."""
        session = await self.sessions.for_writing(call.identity)
        content = await self._read(call, self.limits.small_body, what="body")
        example = '{"percent": 0 to 100, "message": text}, or one of the two'
        body = fields.parse(fields.ProgressBody, content, example=example)
        if body.percent is None and body.message is None:
            raise Problem(Kind.INVALID_FIELD, f"percent, message: both are missing; send {example}")
        message = None if body.message is None else fields.message(body.message, self.limits.progress_message)
        await self.pacer.note(session, body.percent, message)
        return Response(status_code=202)

    async def heartbeat(self, call: Call) -> Response:
        """204: noted. The body, if any, means nothing."""
        session = await self.sessions.for_writing(call.identity)
        await self._read(call, self.limits.small_body, what="body")
        await self.ledger.heartbeat(session, self.clock())
        return Response(status_code=204)

    async def result(self, call: Call) -> Response:
        """204: the attempt's success is recorded, now or by an earlier call."""
        session = await self.sessions.for_writing(call.identity)
        content = await self._read(call, self.limits.result_body, what="body")
        output = fields.parse_output(content, limits=self.limits)
        await self.ledger.report(session, Report(outcome="Succeeded", output=output, at=self.clock()))
        return Response(status_code=204)

    async def failure(self, call: Call) -> Response:
        """204: the attempt's failure is recorded, now or by an earlier call."""
        session = await self.sessions.for_writing(call.identity)
        content = await self._read(call, self.limits.small_body, what="body")
        body = fields.parse(
            fields.FailureBody, content, example='{"message": text, "retryable": true or false}'
        )
        await self.ledger.report(
            session,
            Report(
                outcome="Failed",
                message=fields.message(body.message, self.limits.failure_message),
                retryable=body.retryable,
                at=self.clock(),
            ),
        )
        return Response(status_code=204)

    async def _about_latest(self, call: Call, session: AgentSession) -> dict[str, Any] | None:
        if session.checkpoint_sequence is None:
            return None
        await self._reserve(call)
        try:
            found = await self.ledger.latest_checkpoint(session)
        except CorruptCheckpoint:
            # The input is still good, and asking for the checkpoint itself will tell.
            return {"sequence": session.checkpoint_sequence, "label": None, "at": None}
        if found is None:
            return None
        return {"sequence": found.sequence, "label": found.label, "at": found.created_at}

    async def _read(self, call: Call, limit: int, *, what: str) -> bytes:
        content, hold = await call.body.read(limit, what=what, budget=self.budget)
        if hold is not None:
            call.holds.append(hold)
        return content

    async def _reserve(self, call: Call) -> None:
        """Memory for the largest checkpoint, since its size is known only when it is here."""
        call.holds.append(await self.budget.hold(self.limits.checkpoint))


def _no_checkpoint(detail: str) -> Problem:
    return Problem(Kind.CHECKPOINT_NOT_FOUND, f"checkpoint: {detail}")


def _bytes(call: Call, found: Checkpoint) -> Response:
    for hold in call.holds:
        hold.shrink(len(found.data))
    headers = {
        "Perdure-Sequence": str(found.sequence),
        "Perdure-Sha256": found.sha256,
        "X-Content-Type-Options": "nosniff",
        "Content-Type": found.content_type,
    }
    if found.label is not None:
        headers["Perdure-Label"] = fields.label_header(found.label)
    return Transfer(found.data, headers=headers)


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
