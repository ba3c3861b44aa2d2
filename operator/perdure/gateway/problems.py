"""Errors as RFC 9457 problem documents, so that every client can tell them apart without reading prose.

The kinds are a closed set: scripts and SDKs may rely on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import orjson
from starlette.responses import Response

TYPE_BASE = "https://perdure.dev/problems/"
MEDIA_TYPE = "application/problem+json"


class ProblemType(Enum):
    """Last part of the problem's type, HTTP status, title."""

    #: No token, or one that proves nothing.
    UNAUTHENTICATED = ("unauthenticated", 401, "The token is missing or not valid")
    #: The cluster's keys cannot be had, so tokens cannot be checked.
    KEYS_UNAVAILABLE = ("keys-unavailable", 503, "Tokens cannot be checked now")
    #: The pod is not known, most often because it has only just been created.
    ATTEMPT_NOT_READY = ("attempt-not-ready", 503, "This pod is not known yet")
    #: The attempt is closed, or a newer one exists.
    SUPERSEDED = ("superseded", 409, "This attempt was superseded")
    #: The ledger cannot be reached.
    LEDGER_UNAVAILABLE = ("ledger-unavailable", 503, "The ledger is not available")
    #: Too many large bodies at once.
    BUSY = ("busy", 503, "Too much is being transferred at once")
    #: The gateway is shutting down, or not ready yet.
    NOT_READY = ("not-ready", 503, "The gateway is not ready")
    #: The body did not arrive in time.
    TOO_SLOW = ("too-slow", 408, "The body did not arrive in time")
    #: A body, or something in it, is over a documented limit.
    TOO_LARGE = ("too-large", 413, "Too large")
    #: The body is not JSON.
    INVALID_JSON = ("invalid-json", 400, "The body is not JSON")
    #: A field of the request has a value that it cannot have.
    INVALID_FIELD = ("invalid-field", 422, "A field is not valid")
    #: No such route.
    NOT_FOUND = ("not-found", 404, "There is nothing here")
    #: The route exists, with another method.
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "The method is not allowed here")
    #: The task has no such checkpoint.
    CHECKPOINT_NOT_FOUND = ("checkpoint-not-found", 404, "There is no such checkpoint")
    #: The same attempt has saved a newer one; this one came late. Repeating the call does not help.
    CHECKPOINT_OVERTAKEN = ("checkpoint-overtaken", 409, "A newer checkpoint is there already")
    #: The body is not what `Perdure-Sha256` says of it: damaged or cut off on its way.
    CHECKSUM_MISMATCH = ("checksum-mismatch", 422, "The body does not match its checksum")
    #: A stored checkpoint does not match its checksum. Repeating the call does not help.
    CHECKPOINT_CORRUPT = ("checkpoint-corrupt", 500, "The checkpoint is damaged")
    #: A defect of the gateway.
    INTERNAL = ("internal", 500, "The gateway failed")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title


#: Kinds that heal by themselves within a second or so.
_SOON = frozenset(
    {
        ProblemType.KEYS_UNAVAILABLE,
        ProblemType.ATTEMPT_NOT_READY,
        ProblemType.LEDGER_UNAVAILABLE,
        ProblemType.BUSY,
        ProblemType.NOT_READY,
    }
)


class Problem(Exception):
    """An error to be answered. `detail` names the field and the remedy, and never holds a secret."""

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{kind.slug}: {detail}")
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        #: Further members of the document.
        self.members = dict(members or {})

    def response(self) -> Response:
        """The document, with the headers that its kind asks for."""
        headers = dict(self.headers)
        if self.kind in _SOON:
            headers["Retry-After"] = "1"
        if self.kind is ProblemType.UNAUTHENTICATED:
            headers["WWW-Authenticate"] = 'Bearer realm="perdure"'
        document = {
            "type": TYPE_BASE + self.kind.slug,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            **self.members,
        }
        return Response(
            orjson.dumps(document), status_code=self.kind.status, headers=headers, media_type=MEDIA_TYPE
        )
