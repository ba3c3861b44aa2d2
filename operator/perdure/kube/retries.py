"""Errors in answers of the API server, and the backoff before a retry."""

from __future__ import annotations

import random
from typing import Any

from perdure.kube.errors import ApiError, ErrorCause, ErrorDetails

#: Seconds before the first retry, doubled for each further retry.
FIRST_PAUSE = 0.1
MAX_PAUSE = 2.0


def error_of(status: int, payload: Any, retry_after: float | None) -> ApiError:
    """The error in an answer, whose payload is a `Status` object or a text."""
    if status == 0:
        return ApiError(0, "NoAnswer", str(payload))
    if not isinstance(payload, dict):
        return ApiError(status, "", str(payload) or "no explanation", retry_after=retry_after)
    details = payload.get("details")
    if retry_after is None and isinstance(details, dict) and "retryAfterSeconds" in details:
        retry_after = retry_after_seconds(str(details["retryAfterSeconds"]))
    return ApiError(
        status,
        str(payload.get("reason") or ""),
        str(payload.get("message") or "no explanation"),
        retry_after=retry_after,
        details=_details_of(details),
    )


def _details_of(details: Any) -> ErrorDetails | None:
    """`details` of a `Status`, of which a webhook may have written every part."""
    if not isinstance(details, dict):
        return None
    causes = details.get("causes")
    return ErrorDetails(
        name=str(details.get("name") or ""),
        kind=str(details.get("kind") or ""),
        causes=tuple(
            ErrorCause(
                reason=str(cause.get("reason") or ""),
                message=str(cause.get("message") or ""),
                field=str(cause.get("field") or ""),
            )
            for cause in (causes if isinstance(causes, list) else ())
            if isinstance(cause, dict)
        ),
    )


def backoff(tried: int, *, longest: float) -> float:
    """Seconds before the next try: exponential in the tries so far, with jitter."""
    # After hours of retries the power would exceed the range of floats.
    pause: float = min(FIRST_PAUSE * 2 ** min(tried - 1, 10), longest)
    return pause * random.uniform(0.5, 1.0)


def backoff_after(tried: int, error: ApiError) -> float:
    """Seconds before the retry of a request, with the server's Retry-After."""
    pause = backoff(tried, longest=MAX_PAUSE)
    # Never earlier than the server asks, and later by the jitter: clients with the same Retry-After would
    # otherwise all return at once.
    return pause if error.retry_after is None else error.retry_after + pause


def retry_after_seconds(retry_after: str | None) -> float | None:
    """The seconds in a Retry-After header; None without a number."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        # A date. The API server sends none, and the clock of a proxy may differ from the local clock.
        return None
