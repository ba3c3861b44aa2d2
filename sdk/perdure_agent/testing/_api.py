"""The agents' API of one task in memory: the gateway's responses without its ledger.

The cases in the repository's `tests/contract` hold this module and the gateway to one contract.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote_to_bytes

from perdure_agent.testing._records import (
    Failure,
    RecordedCheckpoint,
    RecordedProgress,
    Route,
    Success,
)

PROBLEMS: Final[Mapping[str, tuple[int, str]]] = {
    "unauthenticated": (401, "The token is missing or not valid"),
    "attempt-not-ready": (503, "This pod is not known yet"),
    "superseded": (409, "This attempt was superseded"),
    "ledger-unavailable": (503, "The ledger is not available"),
    "busy": (503, "Too much is being transferred at once"),
    "too-large": (413, "Too large"),
    "invalid-json": (400, "The body is not JSON"),
    "invalid-field": (422, "A field is not valid"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "checkpoint-not-found": (404, "There is no such checkpoint"),
    "checkpoint-overtaken": (409, "A newer checkpoint is there already"),
    "checksum-mismatch": (422, "The body does not match its checksum"),
    "checkpoint-corrupt": (500, "The checkpoint is damaged"),
}
#: Problems that heal by themselves, and therefore carry Retry-After.
_SOON: Final = frozenset({"attempt-not-ready", "ledger-unavailable", "busy"})
_LARGEST: Final = 2**63 - 1
_DEPTH: Final = 100
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER: Final = re.compile(r"[0-9]{1,80}", re.ASCII)
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The gateway's limits, under the same names. Sizes in bytes, lengths in characters."""

    checkpoint: int = 64 * 1024 * 1024
    listed: int = 1000
    listed_by_default: int = 100
    output: int = 1024 * 1024
    result_body: int = 8 * 1024 * 1024
    small_body: int = 64 * 1024
    label: int = 256
    failure_message: int = 4096
    progress_message: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request below /agent/v1. Names of headers are lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Problem(Exception):
    """An error to be answered as a problem document."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.members = dict(members or {})
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The document, with the headers that its kind asks for."""
        status, title = PROBLEMS[self.kind]
        headers = dict(self.headers)
        if self.kind in _SOON:
            headers["Retry-After"] = "1"
        if self.kind == "unauthenticated":
            headers["WWW-Authenticate"] = 'Bearer realm="perdure"'
        return problem_response(self.kind, status, title, self.detail, members=self.members, headers=headers)


def problem_response(
    kind: str,
    status: int,
    title: str,
    detail: str,
    *,
    members: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document (RFC 9457)."""
    document = {
        "type": f"https://perdure.dev/problems/{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        **(members or {}),
    }
    return Response(
        status, {"Content-Type": "application/problem+json", **(headers or {})}, json.dumps(document).encode()
    )


@dataclass(slots=True)
class Attempt:
    """One attempt and its pod's token."""

    number: int
    token: str
    #: The operator has recorded the pod.
    known: bool = True
    open: bool = True
    report: Success | Failure | None = None
    #: Highest `Perdure-Order` of the attempt's checkpoints.
    order: int | None = None


@dataclass(slots=True, kw_only=True)
class Task:
    """State of one task, over all attempts."""

    namespace: str
    workflow: str
    name: str
    step: str
    index: int | None
    input: Any
    last_failure: Mapping[str, Any] | None = None
    limits: Limits = field(default_factory=Limits)
    #: Number of newest checkpoints that the retention keeps.
    kept: int = 10
    attempts: list[Attempt] = field(default_factory=list)
    checkpoints: list[RecordedCheckpoint] = field(default_factory=list)
    #: Highest sequence so far, kept or not.
    sequence: int = 0
    progress: list[RecordedProgress] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    restored: list[tuple[int, int]] = field(default_factory=list)
    #: Sequence numbers of checkpoints that are damaged in the ledger, and in transit.
    corrupt: set[int] = field(default_factory=set)
    garbled: set[int] = field(default_factory=set)

    def attempt_of(self, headers: Mapping[str, str]) -> Attempt:
        """The attempt whose token the request carries. Raises Problem(unauthenticated)."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Problem(
                "unauthenticated",
                "Authorization: send `Bearer` and the token in the file that PERDURE_TOKEN_FILE names",
            )
        for attempt in self.attempts:
            if attempt.token == token.strip():
                return attempt
        raise Problem(
            "unauthenticated",
            "Authorization: the token is not valid, or has expired; read the file that PERDURE_TOKEN_FILE "
            "names again at each use",
        )

    def add(self, checkpoint: RecordedCheckpoint) -> None:
        """Store a checkpoint, and delete those that the retention no longer covers."""
        self.sequence = checkpoint.sequence
        self.checkpoints.append(checkpoint)
        newest = max((kept.sequence for kept in self.checkpoints if kept.recoverable), default=0)
        oldest = self.sequence - self.kept
        self.checkpoints[:] = [
            kept for kept in self.checkpoints if kept.sequence > oldest or kept.sequence == newest
        ]

    def latest(self, label: str | None = None) -> RecordedCheckpoint | None:
        """The newest recoverable checkpoint, of that label if it is given."""
        fitting = (kept for kept in reversed(self.checkpoints) if kept.recoverable)
        return next((kept for kept in fitting if label in (None, kept.label)), None)


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
        limit = self.task.limits.label
        remedy = f"use at most {limit} characters of UTF-8 without control characters"
        try:
            given = _query(self.message.query).get("label")
            sent = self.message.headers.get("perdure-label", "") if header else ""
            text = given[0] if given else unquote_to_bytes(sent.encode("latin-1")).decode()
        except ValueError:
            raise Problem("invalid-field", f"label: not valid UTF-8; {remedy}") from None
        if len(text) > limit or _CONTROL.search(text):
            raise Problem("invalid-field", f"label: too long, or with control characters; {remedy}")
        return text or None


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
    content_type = _content_type(headers.get("content-type"))
    recoverable = _recoverable(headers.get("perdure-recoverable"))
    order = _order(headers.get("perdure-order"))
    sha256 = _sha256(headers.get("perdure-sha256"))
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
    before = _number(call, "before", most=None)
    limit = _number(call, "limit", most=limits.listed) or limits.listed_by_default
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
    body = _fields(call, {"percent", "message"}, example=example)
    percent, message = body.get("percent"), body.get("message")
    if percent is not None and (
        isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100
    ):
        raise Problem("invalid-field", f"percent: must be a number from 0 to 100; send {example}")
    _text(message, "message", example=example)
    if percent is None and message is None:
        raise Problem("invalid-field", f"percent, message: both are missing; send {example}")
    call.fence()
    if message is not None:
        message = _fit(message, call.task.limits.progress_message)
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
    body = _parsed(call.body(limits.result_body), example=example)
    if not isinstance(body, dict) or set(body) != {"output"}:
        raise Problem(
            "invalid-field", f"output: the body must be an object with this one field; send {example}"
        )
    output = body["output"]
    deepest, has_nul = _inspect(output)
    if deepest > _DEPTH:
        raise Problem("invalid-field", f"output: nested too deeply; at most {_DEPTH} levels can be kept")
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
    body = _fields(call, {"message", "retryable"}, example=example)
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
            message=_fit(message, call.task.limits.failure_message),
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


def _query(query: str) -> dict[str, list[str]]:
    """Raises ValueError if the query is not UTF-8."""
    return parse_qs(query.encode().decode("ascii"), errors="strict", max_num_fields=16) if query else {}


def _number(call: _Call, name: str, *, most: int | None) -> int | None:
    given = _query(call.message.query).get(name)
    if not given:
        return None
    if not _NUMBER.fullmatch(given[0]) or int(given[0]) < 1 or (most is not None and int(given[0]) > most):
        up_to = "" if most is None else f" to {most}"
        raise Problem("invalid-field", f"{name}: use a whole number from 1{up_to}, or leave it out")
    return int(given[0])


def _content_type(header: str | None) -> str:
    text = (header or "").strip()
    if len(text) > 255 or not text.isascii() or _CONTROL.search(text):
        raise Problem(
            "invalid-field",
            "Content-Type: use at most 255 printable ASCII characters, such as application/json",
        )
    return text or "application/octet-stream"


def _recoverable(header: str | None) -> bool:
    text = (header or "true").strip().lower()
    if text not in ("true", "false"):
        raise Problem("invalid-field", "Perdure-Recoverable: send true or false, or leave it out")
    return text == "true"


def _order(header: str | None) -> int | None:
    if header is None:
        return None
    if not _NUMBER.fullmatch(header) or not 1 <= int(header) <= _LARGEST:
        raise Problem(
            "invalid-field",
            "Perdure-Order: send a whole number from 1 to 2^63 - 1 that rises with each checkpoint of the "
            "attempt, the same one when a call is repeated; or leave it out",
        )
    return int(header)


def _sha256(header: str | None) -> str | None:
    if header is not None and not re.fullmatch(r"[0-9A-Fa-f]{64}", header):
        raise Problem(
            "invalid-field",
            "Perdure-Sha256: send the body's SHA-256 as 64 hexadecimal digits, or leave it out",
        )
    return None if header is None else header.lower()


def _parsed(content: bytes, *, example: str) -> Any:
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(content.decode(), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Problem("invalid-json", f"body: {error}; send {example}") from None


def _fields(call: _Call, known: set[str], *, example: str) -> dict[str, Any]:
    body = _parsed(call.body(call.task.limits.small_body), example=example)
    if not isinstance(body, dict):
        raise Problem("invalid-field", f"body: must be an object; send {example}")
    for name in body:
        if name not in known:
            raise Problem("invalid-field", f"{name}: no such field; send {example}")
    return body


def _text(value: Any, name: str, *, example: str) -> None:
    if value is not None and not isinstance(value, str):
        raise Problem("invalid-field", f"{name}: must be a text; send {example}")


def _fit(text: str, limit: int) -> str:
    return text[:limit].replace("\x00", "\ufffd")


def _inspect(value: Any) -> tuple[int, bool]:
    """Levels of lists and maps, and whether a string holds U+0000; counted without recursion."""
    deepest, has_nul = 0, False
    waiting = [(value, 1)]
    while waiting:
        found, level = waiting.pop()
        if isinstance(found, str):
            has_nul = has_nul or "\x00" in found
        elif isinstance(found, dict | list):
            deepest = max(deepest, level)
            waiting.extend(
                (child, level + 1) for child in (found.values() if isinstance(found, dict) else found)
            )
            if isinstance(found, dict):
                has_nul = has_nul or any("\x00" in key for key in found)
    return deepest, has_nul
