"""Handlers of `/agent/v1`: the operations of an agent on its own task.

Each handler records one fact. The response is sent after the ledger has committed the fact: an agent that
reads 2xx may die the next moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from starlette.responses import Response

from perdure.domain.records import Report
from perdure.gateway.agent_api import request_fields as fields
from perdure.gateway.agent_api.checkpoint_throttle import CheckpointThrottle
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.agent_api.ports import AgentLedger
from perdure.gateway.agent_api.problems import AgentProblem
from perdure.gateway.agent_api.progress_throttle import ProgressThrottle
from perdure.gateway.agent_api.sessions import Sessions
from perdure.gateway.agent_api.transfer import checkpoint_head, checkpoint_response
from perdure.gateway.http.budget import Budget
from perdure.gateway.http.endpoint import Call, json_response
from perdure.gateway.http.problems import HttpProblem, Problem
from perdure.gateway.http.request_body import parse
from perdure.gateway.http.spool import Spool
from perdure.kube.tokens import AgentIdentity
from perdure.ledger.types import AgentSession, CheckpointInfo

AgentCall: TypeAlias = Call[AgentIdentity]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentApi:
    """The handlers. Each may raise Problem, and the errors of the ledger."""

    ledger: AgentLedger
    sessions: Sessions
    throttle: ProgressThrottle
    checkpoints: CheckpointThrottle
    #: Large checkpoints that arrive at once.
    uploads: Budget
    limits: AgentLimits
    clock: Callable[[], datetime]

    async def task(self, call: AgentCall) -> Response:
        """200 with the task's input, the attempt's number, the newest checkpoint, and the last failure."""
        session = await self.sessions.for_reading(call.identity)
        return json_response(
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

    async def save_checkpoint(self, call: AgentCall) -> Response:
        """201 with the sequence number, after the bytes are durable."""
        label = fields.label(call.headers.get(b"perdure-label"), call.query, limit=self.limits.label)
        content_type = fields.content_type(call.headers.get(b"content-type"))
        recoverable = fields.recoverable(call.headers.get(b"perdure-recoverable"))
        order = fields.order(call.headers.get(b"perdure-order"))
        sha256 = fields.checksum(call.headers.get(b"perdure-sha256"))
        # Before the body is read: an unknown pod must not take memory and a place among the uploads.
        session = await self.sessions.for_writing(call.identity)
        data = await self._checkpoint(call)
        announced = self.checkpoints.announces(session)
        sequence = await self.ledger.write_checkpoint(
            session,
            data,
            content_type=content_type,
            label=label,
            recoverable=recoverable,
            order=order,
            sha256=sha256,
            announced=announced,
            now=self.clock(),
        )
        if not announced:
            self.checkpoints.owe(session)
        return json_response({"sequence": sequence}, status=201)

    async def list_checkpoints(self, call: AgentCall) -> Response:
        """200 with the task's stored checkpoints, newest first, without their bytes."""
        listing = fields.listing(call.query, limits=self.limits)
        session = await self.sessions.for_reading(call.identity)
        found = await self.ledger.checkpoints(
            session, label=listing.label, before=listing.before, limit=listing.limit + 1
        )
        listed = found[: listing.limit]
        return json_response(
            {
                "checkpoints": [_about(info) for info in listed],
                "before": listed[-1].sequence if len(found) > len(listed) else None,
            }
        )

    async def latest_checkpoint(self, call: AgentCall) -> Response:
        """200 with the bytes of the newest recoverable checkpoint, with `?label=` of that label.

        Every attempt of the task counts, not only the caller's.
        """
        label = fields.label(None, call.query, limit=self.limits.label)
        session = await self.sessions.for_reading(call.identity)
        found = None
        if call.head:
            info = await self._latest_info(session, label)
            if info is not None:
                return checkpoint_head(info)
        elif session.checkpoint_sequence is not None:
            await call.reserve(self.limits.window)
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
        return checkpoint_response(found)

    async def one_checkpoint(self, call: AgentCall) -> Response:
        """200 with the bytes of one checkpoint."""
        session = await self.sessions.for_reading(call.identity)
        sequence = int(call.path_params["sequence"])
        if call.head:
            listed = await self.ledger.checkpoints(session, before=sequence + 1, limit=1)
            if listed and listed[0].sequence == sequence:
                return checkpoint_head(listed[0])
            raise _no_checkpoint(f"there is no number {sequence}, or it is no longer kept")
        await call.reserve(self.limits.window)
        found = await self.ledger.open_checkpoint(session, sequence)
        if found is None:
            raise _no_checkpoint(
                f"there is no number {sequence}, or it is no longer kept; ask for latest, or for the list"
            )
        return checkpoint_response(found)

    async def progress(self, call: AgentCall) -> Response:
        """202: accepted. The report becomes an event soon, unless a newer report replaces it."""
        session = await self.sessions.for_writing(call.identity)
        content = await call.read(self.limits.small_body, what="body")
        example = '{"percent": 0 to 100, "message": text}, or one of the two'
        body = parse(fields.ProgressBody, content, example=example)
        if body.percent is None and body.message is None:
            raise Problem(HttpProblem.INVALID_FIELD, f"percent, message: both are missing; send {example}")
        message = None if body.message is None else fields.message(body.message, self.limits.progress_message)
        await self.throttle.submit(session, body.percent, message)
        return Response(status_code=202)

    async def heartbeat(self, call: AgentCall) -> Response:
        """204: recorded. A body is allowed, and ignored."""
        session = await self.sessions.for_writing(call.identity)
        await call.read(self.limits.small_body, what="body")
        await self.ledger.heartbeat(session, self.clock())
        return Response(status_code=204)

    async def result(self, call: AgentCall) -> Response:
        """204: the attempt's success is recorded, now or by an earlier call."""
        session = await self.sessions.for_writing(call.identity)
        limits, body = self.limits, call.body
        if body.declared is not None and body.declared <= min(fields.SMALL_RESULT, limits.result_body):
            content = await call.read(limits.result_body, what="body")
            output = await fields.read_small_output(content, limits=limits)
        else:
            expected = limits.output if body.declared is None else min(body.declared, limits.output)
            # The compact output, and its copy in the statement that waits for the ledger.
            await call.reserve(2 * expected)
            output = await fields.read_output(body.pieces(limits.result_body, what="body"), limits=limits)
        await self.ledger.report(session, Report(outcome="Succeeded", output=output, at=self.clock()))
        return Response(status_code=204)

    async def failure(self, call: AgentCall) -> Response:
        """204: the attempt's failure is recorded, now or by an earlier call."""
        session = await self.sessions.for_writing(call.identity)
        content = await call.read(self.limits.small_body, what="body")
        body = parse(fields.FailureBody, content, example='{"message": text, "retryable": true or false}')
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

    async def _latest_info(self, session: AgentSession, label: str | None) -> CheckpointInfo | None:
        """The newest recoverable checkpoint, with `label` of that label, without its bytes."""
        newest = session.checkpoint_sequence
        if newest is None:
            return None
        listed = await self.ledger.checkpoints(
            session, label=label, before=newest + 1, limit=1 if label is None else self.limits.listed
        )
        return next((info for info in listed if info.recoverable), None)

    async def _checkpoint(self, call: AgentCall) -> bytes | AsyncIterable[bytes]:
        """The body: whole if it is small, in pieces from the disk if it is large."""
        body, limits, what = call.body, self.limits, "checkpoint"
        body.refuse_larger(limits.checkpoint, what=what)
        if body.declared is not None and body.declared <= limits.whole:
            return await call.read(limits.whole, what=what)
        await call.reserve(limits.window)
        # A place is for clients that send: one that has sent nothing could hold it for nothing.
        first = await body.begin(limits.whole, what=what)
        if body.ended and len(first) <= limits.whole:
            return first
        # Until a place is free the rest of the body stays with the client: TCP stops the sender.
        call.holds.append(await self.uploads.hold(1, call.owner))
        spool = Spool()
        call.holds.append(spool)
        try:
            await spool.fill(body.pieces(limits.checkpoint, what=what, first=first))
        except OSError as error:
            raise Problem(
                HttpProblem.NO_SPACE,
                f"checkpoint: the gateway cannot keep it while it arrives: {error.strerror}",
            ) from error
        return spool.pieces()


def _about_latest(session: AgentSession) -> dict[str, Any] | None:
    if session.checkpoint_sequence is None:
        return None
    return {
        "sequence": session.checkpoint_sequence,
        "label": session.checkpoint_label,
        "at": session.checkpoint_at,
    }


def _no_checkpoint(detail: str) -> Problem:
    return Problem(AgentProblem.CHECKPOINT_NOT_FOUND, f"checkpoint: {detail}")


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
