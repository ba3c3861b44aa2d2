"""What answers of the API server mean: errors, and when to try again."""

from __future__ import annotations

import random
from typing import Any

from perdure.kube.errors import ApiError

#: Seconds before the second try; doubled for each one after it.
FIRST_PAUSE = 0.1
MAX_PAUSE = 2.0


def error_of(status: int, payload: Any, retry_after: float | None) -> ApiError:
    if status == 0:
        return ApiError(0, "NoAnswer", str(payload))
    if not isinstance(payload, dict):
        return ApiError(status, "", str(payload) or "no explanation", retry_after=retry_after)
    details = payload.get("details")
    if retry_after is None and isinstance(details, dict) and "retryAfterSeconds" in details:
        retry_after = seconds_of(str(details["retryAfterSeconds"]))
    return ApiError(
        status,
        str(payload.get("reason") or ""),
        str(payload.get("message") or "no explanation"),
        retry_after=retry_after,
    )


def growing_pause(tried: int, *, longest: float) -> float:
    """Seconds before the next try: twice as many with each one, and not the same for all who wait."""
    # Whoever tries for hours would leave the range of numbers.
    pause: float = min(FIRST_PAUSE * 2 ** min(tried - 1, 10), longest)
    return pause * random.uniform(0.5, 1.0)


def pause_after(tried: int, error: ApiError) -> float:
    """The same for a request, heeding what the server asks."""
    pause = growing_pause(tried, longest=MAX_PAUSE)
    # Never before the server asks; somewhat after, or all who were told the same would come back at once.
    return pause if error.retry_after is None else error.retry_after + pause


def seconds_of(retry_after: str | None) -> float | None:
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        return None  # A date: the API server never sends one, and a proxy's clock may differ from ours.
