"""The agents' API of one task in memory: the gateway's responses without its ledger.

The cases in the repository's `tests/contract` hold this module and the gateway to one contract.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from perdure_agent.testing import _fields as fields
from perdure_agent.testing._problems import Message, Problem, Response
from perdure_agent.testing._records import (
    Failure,
    RecordedCheckpoint,
    RecordedProgress,
    Route,
    Success,
)
from perdure_agent.testing._task import Attempt, Task

#: The clock's zero as a date.
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
#: Characters of a label header that need no percent-encoding.
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def route_of(method: str, path: str) -> Route:
    """The name of the call that a request makes."""
    named = _ROUTES.get(_pattern(path), {}).get("GET" if method == "HEAD" else method)
    return "unknown" if named is None else named[0]


def respond(task: Task, message: Message, *, now: float) -> Response:
    """Carry out a request and return its response. `now`: virtual seconds."""
    try:
        handlers = _ROUTES.get(_pattern(message.path))
        if handlers is None:
            raise Problem("not-found", f"{message.path}: no such route; agents' routes start with /agent/v1")
        method = "GET" if message.method == "HEAD" else message.method
        if method not in handlers:
            allowed = ", ".join(sorted({*handlers, *(["HEAD"] if "GET" in handlers else [])}))
            raise Problem(
                "method-not-allowed",
                f"{message.method} {message.path}: use {allowed}",
                headers={"Allow": allowed},
            )
        attempt = task.attempt_of(message.headers)
        response = handlers[method][1](_Call(task, attempt, message, now))
    except Problem as problem:
        response = problem.response()
    if message.method == "HEAD":
        return replace(
            response, headers={**response.headers, "Content-Length": str(len(response.body))}, body=b""
        )
    return response


@dataclass(frozen=True, slots=True)
class _Call:
    task: Task
    attempt: Attempt
    message: Message
    now: float

    def for_writing(self) -> None:
        """Raises Problem(attempt-not-ready). `fence` follows once the body is read, as in the ledger."""
        if not self.attempt.known:
            raise Problem(
                "attempt-not-ready", "pod: no attempt of a task is recorded for it (yet); try again"
            )

    def for_reading(self) -> None:
        self.for_writing()
        self.fence()

    def fence(self) -> None:
        """Raises Problem(superseded)."""
        if not self.attempt.open:
            raise Problem(
                "superseded",
                "attempt: it is closed or a newer one has taken over; stop, and exit with code 76",
            )

    def body(self, limit: int, *, what: str = "body") -> bytes:
        if len(self.message.body) > limit:
            raise Problem(
                "too-large",
                f"{what}: at most {limit} bytes; send less, or a reference to it",
                members={"limit": limit},
            )
        return self.message.body

    def label(self, *, header: bool = True) -> str | None:
        """The label that the request names, in the query or, if `header`, in the header."""
        sent = self.message.headers.get("perdure-label", "") if header else ""
        return fields.label(sent, self.message.query, limit=self.task.limits.label)


def _task(call: _Call) -> Response:
    call.for_reading()
    task, latest = call.task, call.task.latest()
    return _json(
        {
            "workflow": task.workflow,
            "namespace": task.namespace,
            "task": task.name,
            "step": task.step,
            "index": task.index,
            "attempt": call.attempt.number,
            "input": task.input,
            "checkpoint": None
            if latest is None
            else {"sequence": latest.sequence, "label": latest.label, "at": _at(latest.at)},
            "lastFailure": task.last_failure,
        }
    )


def _save_checkpoint(call: _Call) -> Response:
    headers, task, attempt = call.message.headers, call.task, call.attempt
    label = call.label()
    content_type = fields.content_type(headers.get("content-type"))
    recoverable = fields.recoverable(headers.get("perdure-recoverable"))
    order = fields.order(headers.get("perdure-order"))
    sha256 = fields.checksum(headers.get("perdure-sha256"))
    call.for_writing()
    data = call.body(task.limits.checkpoint, what="checkpoint")
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256 != digest:
        raise Problem(
            "checksum-mismatch",
            "Perdure-Sha256: the body is another one; nothing was kept, and the checkpoint before is still "
            "the newest; send it again",
        )
    call.fence()
    if order is not None and attempt.order is not None and order <= attempt.order:
        for kept in task.checkpoints:
            if (kept.attempt, kept.order, kept.sha256) == (attempt.number, order, digest):
                return _json({"sequence": kept.sequence}, status=201)
        raise Problem(
            "checkpoint-overtaken",
            "Perdure-Order: this attempt has saved a newer checkpoint, or another one under this number; "
            "nothing was kept of this one; send what is newest under a higher number",
        )
    if order is not None:
        attempt.order = order
    task.add(
        RecordedCheckpoint(
            sequence=task.sequence + 1,
            attempt=attempt.number,
            data=data,
            content_type=content_type,
            label=label,
            recoverable=recoverable,
            order=order,
            at=call.now,
        )
    )
    return _json({"sequence": task.sequence}, status=201)


def _list_checkpoints(call: _Call) -> Response:
    limits = call.task.limits
    label = call.label(header=False)
    before = fields.number(call.message.query, "before", most=None)
    limit = fields.number(call.message.query, "limit", most=limits.listed) or limits.listed_by_default
    call.for_reading()
    found = [
        kept
        for kept in reversed(call.task.checkpoints)
        if label in (None, kept.label) and (before is None or kept.sequence < before)
    ]
    shown = found[:limit]
    return _json(
        {
            "checkpoints": [
                {
                    "sequence": kept.sequence,
                    "label": kept.label,
                    "size": len(kept.data),
                    "contentType": kept.content_type,
                    "sha256": kept.sha256,
                    "attempt": kept.attempt,
                    "at": _at(kept.at),
                    "recoverable": kept.recoverable,
                }
                for kept in shown
            ],
            "before": shown[-1].sequence if len(found) > len(shown) else None,
        }
    )


def _latest_checkpoint(call: _Call) -> Response:
    label = call.label(header=False)
    call.for_reading()
    found = call.task.latest(label)
    if found is None and label is None:
        raise Problem(
            "checkpoint-not-found",
            "checkpoint: this task has none yet that an attempt could go on from; start from its input",
        )
    if found is None:
        raise Problem(
            "checkpoint-not-found",
            "checkpoint: this task keeps none of that label that an attempt could go on from; "
            "GET /agent/v1/checkpoints lists what there is",
        )
    return _transfer(call, found)


def _one_checkpoint(call: _Call) -> Response:
    call.for_reading()
    sequence = int(call.message.path.rpartition("/")[2])
    for kept in call.task.checkpoints:
        if kept.sequence == sequence:
            return _transfer(call, kept)
    raise Problem(
        "checkpoint-not-found",
        f"checkpoint: there is no number {sequence}, or it is no longer kept; ask for latest, or "
        "for the list",
    )


def _transfer(call: _Call, found: RecordedCheckpoint) -> Response:
    if found.sequence in call.task.corrupt:
        raise Problem(
            "checkpoint-corrupt",
            "checkpoint: its bytes do not match their checksum; ask for an older one by its sequence: "
            "GET /agent/v1/checkpoints lists them",
            members={"sequence": found.sequence},
        )
    headers = {
        "Perdure-Sequence": str(found.sequence),
        "Perdure-Sha256": found.sha256,
        "Perdure-Attempt": str(found.attempt),
        "Perdure-Recoverable": "true" if found.recoverable else "false",
        "X-Content-Type-Options": "nosniff",
        "Content-Type": found.content_type,
    }
    if found.label is not None:
        headers["Perdure-Label"] = quote(found.label, safe=_PLAIN)
    if found.sequence in call.task.garbled:
        garbled = bytes(byte ^ 0xFF for byte in found.data) or b"?"
        return Response(200, headers, garbled)
    if call.message.method != "HEAD":
        call.task.restored.append((call.attempt.number, found.sequence))
    return Response(200, headers, found.data)


def _progress(call: _Call) -> Response:
    call.for_writing()
    example = '{"percent": 0 to 100, "message": text}, or one of the two'
    body = fields.parse_object(
        call.body(call.task.limits.small_body), {"percent", "message"}, example=example
    )
    percent, message = body.get("percent"), body.get("message")
    if percent is not None and (
        isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100
    ):
        raise Problem("invalid-field", f"percent: must be a number from 0 to 100; send {example}")
    fields.check_text(message, "message", example=example)
    if percent is None and message is None:
        raise Problem("invalid-field", f"percent, message: both are missing; send {example}")
    call.fence()
    if message is not None:
        message = fields.fit(message, call.task.limits.progress_message)
    call.task.progress.append(
        RecordedProgress(attempt=call.attempt.number, percent=percent, message=message, at=call.now)
    )
    return Response(202, {}, b"")


def _heartbeat(call: _Call) -> Response:
    call.for_writing()
    call.body(call.task.limits.small_body)
    call.fence()
    call.task.heartbeats.append(call.now)
    return Response(204, {}, b"")


def _result(call: _Call) -> Response:
    call.for_writing()
    limits = call.task.limits
    example = '{"output": any JSON value}'
    body = fields.parse(call.body(limits.result_body), example=example)
    if not isinstance(body, dict) or set(body) != {"output"}:
        raise Problem(
            "invalid-field", f"output: the body must be an object with this one field; send {example}"
        )
    output = body["output"]
    deepest, has_nul = fields.inspect(output)
    if deepest > fields.MAX_DEPTH:
        raise Problem(
            "invalid-field", f"output: nested too deeply; at most {fields.MAX_DEPTH} levels can be kept"
        )
    size = len(json.dumps(output, ensure_ascii=False, separators=(",", ":")).encode())
    if size > limits.output:
        raise Problem(
            "too-large",
            f"output: {size} bytes of compact JSON, at most {limits.output} can be kept; "
            "keep what is large elsewhere and return a reference to it",
            members={"limit": limits.output},
        )
    if has_nul:
        raise Problem(
            "invalid-field",
            "output: a string in it holds the character U+0000, which cannot be kept; remove it",
        )
    return _report(call, Success(attempt=call.attempt.number, output=output))


def _failure(call: _Call) -> Response:
    call.for_writing()
    example = '{"message": text, "retryable": true or false}'
    body = fields.parse_object(
        call.body(call.task.limits.small_body), {"message", "retryable"}, example=example
    )
    message, retryable = body.get("message"), body.get("retryable", False)
    if not isinstance(message, str):
        raise Problem("invalid-field", f"message: must be a text; send {example}")
    if not isinstance(retryable, bool):
        raise Problem("invalid-field", f"retryable: must be true or false; send {example}")
    return _report(
        call,
        Failure(
            attempt=call.attempt.number,
            reason="AgentFailure",
            message=fields.fit(message, call.task.limits.failure_message),
            retryable=retryable,
        ),
    )


def _report(call: _Call, report: Success | Failure) -> Response:
    # The first report counts. A later one is acknowledged even when the attempt is closed: the first one's
    # answer may have been lost.
    if call.attempt.report is None:
        call.fence()
        call.attempt.report = report
    return Response(204, {}, b"")


_Handler = Callable[[_Call], Response]
_ROUTES: Final[Mapping[str, Mapping[str, tuple[Route, _Handler]]]] = {
    "/task": {"GET": ("input", _task)},
    "/checkpoints": {
        "PUT": ("checkpoint", _save_checkpoint),
        "GET": ("checkpoints", _list_checkpoints),
    },
    "/checkpoints/latest": {"GET": ("restore", _latest_checkpoint)},
    "/checkpoints/N": {"GET": ("restore", _one_checkpoint)},
    "/progress": {"POST": ("progress", _progress)},
    "/heartbeat": {"POST": ("heartbeat", _heartbeat)},
    "/result": {"POST": ("result", _result)},
    "/failure": {"POST": ("failure", _failure)},
}


def _pattern(path: str) -> str:
    """The path with a checkpoint's number as `N`."""
    return re.sub(r"^/checkpoints/[0-9]+$", "/checkpoints/N", path, flags=re.ASCII)


def _json(value: Any, *, status: int = 200) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(status, {"Content-Type": "application/json"}, body)


def _at(seconds: float) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()
