"""The rate at which the events of each namespace are published.

The stream is one for all, and discards its oldest messages. Without a rate, one namespace that floods the
outbox would push the events of all others out of the stream before their consumers have read them. Events
beyond the rate stay in the outbox and are published later.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from perdure.domain.records import OutboxRow

#: Events of one namespace a second, once its burst is used up.
RATE: Final = 500.0
#: Events of one namespace that are published at full speed after a pause. The largest `forEach` causes some
#: 40,000 events, and takes longer than a minute.
BURST: Final = 20_000
#: Events that a namespace waits for at once, so that it does not cost a poll of the outbox for each.
_LEAST: Final = 32
#: Namespaces whose rates are remembered, beyond which those with a full burst are dropped.
_REMEMBERED: Final = 4096


class NamespaceRates:
    """A token bucket for each namespace, kept as the number of tokens that it lacks."""

    def __init__(self, *, clock: Callable[[], float], rate: float = RATE, burst: int = BURST) -> None:
        """`clock` is monotonic, in seconds; `rate` in events a second."""
        self._clock = clock
        self._rate = rate
        self._burst = burst
        #: Tokens that a bucket lacks, and when they were counted.
        self._lacking: dict[str, tuple[float, float]] = {}
        #: Namespaces with events that had to stay in the outbox.
        self._held: set[str] = set()

    def allowed(self, rows: Iterable[OutboxRow]) -> list[OutboxRow]:
        """The rows that may be published now: of each namespace the first ones. The others hold it."""
        left: dict[str, int] = {}
        allowed = []
        for row in rows:
            namespace = row.event.namespace
            if namespace not in left:
                left[namespace] = math.floor(self._tokens(namespace))
            left[namespace] -= 1
            if left[namespace] >= 0:
                allowed.append(row)
            else:
                self._held.add(namespace)
        return allowed

    def spend(self, events: Iterable[str]) -> None:
        """Count published events, given by their namespaces."""
        now = self._clock()
        for namespace, count in Counter(events).items():
            self._lacking[namespace] = (self._burst - self._tokens(namespace) + count, now)
        if len(self._lacking) > _REMEMBERED:
            self._lacking = {
                name: (self._burst - tokens, now)
                for name in self._lacking
                if (tokens := self._tokens(name)) < self._burst
            }

    def held(self) -> Sequence[str]:
        """Namespaces whose events must wait. `due` says how long."""
        least = min(_LEAST, self._burst)
        self._held = {namespace for namespace in self._held if self._tokens(namespace) < least}
        return sorted(self._held)

    def due(self) -> float:
        """Seconds until the first held namespace goes on; infinite if none is held."""
        least = min(_LEAST, self._burst)
        missing = (max(0.0, least - self._tokens(namespace)) for namespace in self._held)
        return min(missing, default=math.inf) / self._rate

    def _tokens(self, namespace: str) -> float:
        lacking, since = self._lacking.get(namespace, (0.0, 0.0))
        return self._burst - max(0.0, lacking - (self._clock() - since) * self._rate)
