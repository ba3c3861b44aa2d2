"""When a task is tried again.

Jitter spreads retries of many tasks that failed together, but a decision must not depend on chance: it is
derived from what is retried, so a replayed decision gives the same time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from perdure.domain.records import TaskKey

#: Disruptions of one task that are tolerated before it fails, unless the step says otherwise.
DISRUPTION_LIMIT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """An exponential delay: `initial` seconds, times `factor` each time, up to `longest`, give or take."""

    initial: float = 1.0
    factor: float = 2.0
    longest: float = 60.0
    #: Part of the delay by which it varies to both sides, from 0 to 1.
    jitter: float = 0.1


DEFAULT_BACKOFF = Backoff()
#: The shortest delay before an attempt that follows a second or later disruption.
SHORTEST_DISRUPTION_DELAY = timedelta(seconds=1)


def backoff(uid: str, key: TaskKey, number: int, policy: Backoff = DEFAULT_BACKOFF) -> timedelta:
    """Delay before the retry with this number, from 1, spread evenly and never longer than `longest`."""
    try:
        seconds = min(policy.longest, policy.initial * float(policy.factor) ** (number - 1))
    except OverflowError:
        seconds = policy.longest if policy.initial else 0.0
    digest = hashlib.sha256(f"{uid}/{key.step}/{key.index}/{number}".encode()).digest()
    unit = int.from_bytes(digest[:4], "big") / 0xFFFFFFFF  # evenly over 0..1
    shortest = seconds * (1 - policy.jitter)
    longest = min(policy.longest, seconds * (1 + policy.jitter))
    return timedelta(seconds=shortest + (longest - shortest) * unit)


def disruption_delay(uid: str, key: TaskKey, disruptions: int) -> timedelta:
    """Delay before the attempt after this many disruptions: none after the first, then 1 s to 60 s.

    The first replacement comes at once, since most disruptions come alone. A node that kills every pod, or an
    agent that always exits with 75, must not drive a tight loop. The delays are those of retries by default;
    one that jitter would make shorter than the shortest exceeds it by as much, so that delays stay spread.
    """
    if disruptions <= 1:
        return timedelta(0)
    delay = backoff(uid, key, disruptions - 1)
    return SHORTEST_DISRUPTION_DELAY + abs(delay - SHORTEST_DISRUPTION_DELAY)
