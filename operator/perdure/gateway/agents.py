"""`/agent/v1`: what an agent may do to its own task, and nothing else.

Each handler records one fact. It answers only when the ledger has it: an agent that reads 2xx may die the
next moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from starlette.responses import Response

from perdure.domain.records import Report
from perdure.gateway import fields
from perdure.gateway.bodies import Body, Budget, Hold
from perdure.gateway.limits import Limits
from perdure.gateway.pacing import ProgressPacer
from perdure.gateway.ports import AgentLedger
from perdure.gateway.problems import Problem, ProblemType
from perdure.gateway.sessions import Sessions
from perdure.gateway.transfer import Transfer
from perdure.kube.tokens import AgentIdentity
from perdure.ledger.types import AgentSession, CheckpointInfo, OpenCheckpoint


@dataclass(slots=True)
class Call:
    """One authenticated request."""

    identity: AgentIdentity
    headers: dict[bytes, bytes]
    query: bytes
    path_params: dict[str, Any]
    body: Body
    #: Shares of the budgets; released when the answer has been sent.
    holds: list[Hold] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentApi:
    """The handlers. Each may raise Problem, and what the ledger raises."""

    ledger: AgentLedger
    sessions: Sessions
    pacer: ProgressPacer
    #: Bytes of bodies in memory.
    budget: Budget
    #: Large checkpoints on their way in.
    uploads: Budget
    limits: Limits
    clock: Callable[[], datetime]

    async def task(self, call: Call) -> Response:
        """The task's input, which attempt this is, where to go on from, and what went wrong before."""
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
                "checkpoint": _about_latest(session),
                "lastFailure": session.last_failure,
            }
        )

    async def save_checkpoint(self, call: Call) -> Response:
        """201 with the sequence number, once the bytes are durable, by this call or by an earlier one."""
        label = fields.label(call.headers.get(b"perdure-label"), call.query, limit=self.limits.label)
        content_type = fields.content_type(call.headers.get(b"content-type"))
        recoverable = fields.recoverable(call.headers.get(b"perdure-recoverable"))
        order = fields.order(call.headers.get(b"perdure-order"))
        sha256 = fields.checksum(call.headers.get(b"perdure-sha256"))
        # Before the body is read: an unknown pod must not cost us its upload.
        session = await self.sessions.for_writing(call.identity)
        sequence = await self.ledger.write_checkpoint(
            session,
            await self._checkpoint(call),
            content_type=content_type,
            label=label,
            recoverable=recoverable,
            order=order,
            sha256=sha256,
            now=self.clock(),
        )
        return _json({"sequence": sequence}, status=201)

    async def list_checkpoints(self, call: Call) -> Response:
        """What is kept of the task's checkpoints, newest first."""
        listing = fields.listing(call.query, limits=self.limits)
        session = await self.sessions.for_reading(call.identity)
        found = await self.ledger.checkpoints(
            session, label=listing.label, before=listing.before, limit=listing.limit + 1
        )
        shown = found[: listing.limit]
        return _json(
            {
                "checkpoints": [_about(info) for info in shown],
                "before": shown[-1].sequence if len(found) > len(shown) else None,
            }
        )

    async def latest_checkpoint(self, call: Call) -> Response:
        """The newest recoverable checkpoint's bytes, of `?label=` if given, whichever attempt saved it."""
        label = fields.label(None, call.query, limit=self.limits.label)
        session = await self.sessions.for_reading(call.identity)
        found = None
        if session.checkpoint_sequence is not None:
            await self._reserve(call)
            found = await self.ledger.open_latest(session, label)
        if found is None and label is None:
            raise _no_checkpoint(
                "this task has none yet that an attempt could go on from; start from its input"
            )
        if found is None:
            raise _no_checkpoint(
                "this task keeps none of that label that an attempt could go on from; "
                "GET /agent/v1/checkpoints lists what there is"
            )
        return _transfer(found)

    async def one_checkpoint(self, call: Call) -> Response:
        """One checkpoint's bytes."""
        session = await self.sessions.for_reading(call.identity)
        sequence = int(call.path_params["sequence"])
        await self._reserve(call)
        found = await self.ledger.open_checkpoint(session, sequence)
        if found is None:
            raise _no_checkpoint(
                f"there is no number {sequence}, or it is no longer kept; ask for latest, or for the list"
            )
        return _transfer(found)

    async def progress(self, call: Call) -> Response:
        """202: taken; it becomes an event soon, unless a newer one overtakes it."""
        session = await self.sessions.for_writing(call.identity)
        content = await self._read(call, self.limits.small_body, what="body")
        example = '{"percent": 0 to 100, "message": text}, or one of the two'
        body = fields.parse(fields.ProgressBody, content, example=example)
        if body.percent is None and body.message is None:
            raise Problem(ProblemType.INVALID_FIELD, f"percent, message: both are missing; send {example}")
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

    async def _read(self, call: Call, limit: int, *, what: str) -> bytes:
        content, hold = await call.body.read(limit, what=what, budget=self.budget)
        if hold is not None:
            call.holds.append(hold)
        return content

    async def _checkpoint(self, call: Call) -> bytes | AsyncIterable[bytes]:
        """The body: whole if it is small, and else as it comes."""
        body, limits, what = call.body, self.limits, "checkpoint"
        body.refuse_larger(limits.checkpoint, what=what)
        if body.declared is not None and body.declared <= limits.whole:
            return await self._read(call, limits.whole, what=what)
        first = b""
        if body.declared is None:
            await self._reserve(call)
            first = await body.begin(limits.whole, what=what)
            if body.ended and len(first) <= limits.whole:
                return first
        else:
            await self._reserve(call)
        # What has not been read yet waits at the client.
        call.holds.append(await self.uploads.hold(1))
        return body.pieces(limits.checkpoint, what=what, first=first)

    async def _reserve(self, call: Call) -> None:
        """Memory for a checkpoint of unknown size: it is never here as a whole if it is large."""
        call.holds.append(await self.budget.hold(self.limits.window))


def _about_latest(session: AgentSession) -> dict[str, Any] | None:
    if session.checkpoint_sequence is None:
        return None
    return {
        "sequence": session.checkpoint_sequence,
        "label": session.checkpoint_label,
        "at": session.checkpoint_at,
    }


def _no_checkpoint(detail: str) -> Problem:
    return Problem(ProblemType.CHECKPOINT_NOT_FOUND, f"checkpoint: {detail}")


def _about(info: CheckpointInfo) -> dict[str, Any]:
    return {
        "sequence": info.sequence,
        "label": info.label,
        "size": info.size,
        "contentType": info.content_type,
        "sha256": info.sha256,
        "attempt": info.attempt,
        "at": info.created_at,
        "recoverable": info.recoverable,
    }


def _transfer(found: OpenCheckpoint) -> Response:
    info = found.info
    headers = {
        "Perdure-Sequence": str(info.sequence),
        "Perdure-Sha256": info.sha256,
        "Perdure-Attempt": str(info.attempt),
        "Perdure-Recoverable": "true" if info.recoverable else "false",
        "X-Content-Type-Options": "nosniff",
        "Content-Type": info.content_type,
    }
    if info.label is not None:
        headers["Perdure-Label"] = fields.label_header(info.label)
    return Transfer(found.pieces, size=info.size, headers=headers)


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
