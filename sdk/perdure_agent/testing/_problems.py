"""Messages of the agents' API, and its problem documents (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PROBLEMS: Final[Mapping[str, tuple[int, str]]] = {
    "unauthenticated": (401, "The token is missing or not valid"),
    "token-expired": (401, "The token has expired"),
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
#: Seconds after which an agent should read the file of an expired token again.
EXPIRED_RETRY_AFTER: Final = 5
#: Problems that heal by themselves, and therefore carry Retry-After.
_SOON: Final = frozenset({"attempt-not-ready", "ledger-unavailable", "busy"})


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
        if self.kind == "token-expired":
            headers["Retry-After"] = str(EXPIRED_RETRY_AFTER)
        if status == 401:
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
