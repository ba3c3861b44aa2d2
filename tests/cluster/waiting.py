"""Waiting for a condition, with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between checks. Each check is a kubectl, which costs a tenth of a second of one core.
INTERVAL = 0.3


def until(condition: Callable[[], T], *, seconds: float, what: str) -> T:
    """The first true result of `condition`. Raises AssertionError when time is over."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}, in vain; last seen: {result!r}")
        time.sleep(INTERVAL)
