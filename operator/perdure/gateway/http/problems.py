"""Errors as RFC 9457 problem documents, so that clients distinguish errors without reading prose.

The types of every family are a closed set: scripts and SDKs may rely on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeAlias

import orjson
from starlette.responses import Response

TYPE_BASE = "https://perdure.dev/problems/"
MEDIA_TYPE = "application/problem+json"


class ProblemType(Enum):
    """Base of the enumerations of problem types: one here, and one in every family that adds types.

    A member is the last part of the type's URI, the HTTP status, the title, and whether the cause passes by
    itself within a second or so: then the response asks the client to retry.
    """

    def __init__(self, slug: str, status: int, title: str, transient: bool = False) -> None:
        self.slug = slug
        self.status = status
        self.title = title
        self.transient = transient


class HttpProblem(ProblemType):
    """Problems that every family has. Those of authentication belong to each family's authenticator."""

    #: The ledger cannot be reached.
    LEDGER_UNAVAILABLE = ("ledger-unavailable", 503, "The ledger is not available", True)
    #: Too many large bodies at once.
    BUSY = ("busy", 503, "Too much is being transferred at once", True)
    #: The gateway is shutting down, or not ready yet.
    NOT_READY = ("not-ready", 503, "The gateway is not ready", True)
    #: The connection is one too many, of all or of its address.
    TOO_MANY_CONNECTIONS = ("too-many-connections", 503, "There are too many connections", True)
    #: The caller sends too many requests, or too many at once.
    TOO_MANY_REQUESTS = ("too-many-requests", 429, "There are too many requests")
    #: The gateway's disk has no room for a large body.
    NO_SPACE = ("no-space", 503, "There is no room for the body now", True)
    #: Not HTTP/1.1.
    INVALID_REQUEST = ("invalid-request", 400, "The request cannot be read")
    #: The head of the request did not arrive in time.
    HEAD_TOO_SLOW = ("head-too-slow", 408, "The headers did not arrive in time")
    #: The URL is over a documented limit.
    URL_TOO_LONG = ("url-too-long", 414, "The URL is too long")
    #: The headers are over a documented limit.
    HEAD_TOO_LARGE = ("head-too-large", 431, "The headers are too large")
    #: The body did not arrive in time.
    TOO_SLOW = ("too-slow", 408, "The body did not arrive in time")
    #: The body, or a field of the body, is over a documented limit.
    TOO_LARGE = ("too-large", 413, "Too large")
    #: The body is not JSON.
    INVALID_JSON = ("invalid-json", 400, "The body is not JSON")
    #: A field of the request has a value outside its domain.
    INVALID_FIELD = ("invalid-field", 422, "A field is not valid")
    #: No such route.
    NOT_FOUND = ("not-found", 404, "There is nothing here")
    #: The route exists, with another method.
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "The method is not allowed here")
    #: A defect of the gateway.
    INTERNAL = ("internal", 500, "The gateway failed")


class Problem(Exception):
    """An error with its response. `detail` names the field and the remedy, and never holds a secret."""

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
        """The document, with the headers that its type asks for."""
        headers = dict(self.headers)
        if self.kind.transient:
            headers["Retry-After"] = "1"
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


#: Problems by the exceptions that cause them. An exception without an entry of its own has that of the
#: nearest base class.
ErrorTable: TypeAlias = Mapping[type[Exception], Callable[[Any], Problem]]


def expected_problem(error: Exception, table: ErrorTable) -> Problem | None:
    """The response to an error that `table` has, or that is a Problem. None: the error is a defect."""
    if isinstance(error, Problem):
        return error
    kind = _entry(error, table)
    return None if kind is None else table[kind](error)


def is_expected(error: Exception, table: ErrorTable) -> bool:
    """True for the errors that have a response: see `expected_problem`."""
    return isinstance(error, Problem) or _entry(error, table) is not None


def _entry(error: Exception, table: ErrorTable) -> type[Exception] | None:
    return next((kind for kind in type(error).__mro__ if kind in table), None)
