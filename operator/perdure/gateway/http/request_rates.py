"""The rate of requests of each caller, so that one of them cannot take the event loop.

A caller that is too fast is slowed down: the answer is delayed, and with it the caller's next request. Only a
caller that sends many requests at once is refused.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from perdure.gateway.authn import Owner
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import HttpProblem, Problem

#: Longest delay of one request. Seconds.
LONGEST_DELAY: Final = 1.0
#: Callers whose rates are remembered; a caller that was forgotten starts with a full bucket.
_REMEMBERED: Final = 16_384


class RequestRates:
    """Token buckets by caller, and the requests of each caller that are under way."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._limits = limits
        self._clock = clock
        #: Tokens, and when they were counted.
        self._buckets: OrderedDict[Owner, tuple[float, float]] = OrderedDict()
        self._under_way: Counter[Owner] = Counter()

    def begin(self, owner: Owner) -> None:
        """Count a request until `end`. Raises Problem(too-many-requests), and then counts nothing."""
        if self._under_way[owner] >= self._limits.requests_at_once:
            raise _too_many(
                1, f"this pod has {self._limits.requests_at_once} requests under way, as many as it may have"
            )
        self._under_way[owner] += 1

    def end(self, owner: Owner) -> None:
        """A counted request has ended."""
        self._under_way[owner] -= 1
        if not self._under_way[owner]:
            del self._under_way[owner]

    async def pace(self, owner: Owner) -> None:
        """Return when the caller's rate allows the request. Raises Problem(too-many-requests)."""
        delay = self._delay(owner)
        if delay > LONGEST_DELAY:
            raise _too_many(
                math.ceil(delay), f"this pod sends more than {self._limits.requests_rate:g} requests a second"
            )
        if delay > 0:
            await asyncio.sleep(delay)

    def _delay(self, owner: Owner) -> float:
        now, limits = self._clock(), self._limits
        tokens, since = self._buckets.get(owner, (limits.requests_burst, now))
        tokens = min(limits.requests_burst, tokens + (now - since) * limits.requests_rate) - 1
        delay = max(0.0, -tokens / limits.requests_rate)
        if delay > LONGEST_DELAY:
            # A refused request takes no token: else a caller that goes on would never be served again.
            tokens += 1
        self._buckets[owner] = (tokens, now)
        self._buckets.move_to_end(owner)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return delay


def _too_many(after: int, cause: str) -> Problem:
    return Problem(
        HttpProblem.TOO_MANY_REQUESTS,
        f"request: {cause}; send one after another, and repeat this one after Retry-After",
        headers={"Retry-After": str(after)},
    )
