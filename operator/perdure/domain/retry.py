"""When a task is tried again.

Jitter spreads retries of many tasks that failed together, but a decision must not depend on chance: it is
derived from what is retried, so a replayed decision gives the same time.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from perdure.domain.records import TaskKey

INITIAL_SECONDS = 1.0
FACTOR = 2.0
MAX_SECONDS = 60.0
JITTER = 0.1
#: Disruptions of one task that are borne before it fails.
DISRUPTION_LIMIT = 10


def backoff(uid: str, key: TaskKey, number: int) -> timedelta:
    """Delay before the retry with this number (from 1): exponential, up to a minute, ±10 %."""
    seconds = min(MAX_SECONDS, INITIAL_SECONDS * FACTOR ** min(number - 1, 32))
    digest = hashlib.sha256(f"{uid}/{key.step}/{key.index}/{number}".encode()).digest()
    unit = int.from_bytes(digest[:4], "big") / 0xFFFFFFFF  # evenly over 0..1
    return timedelta(seconds=seconds * (1 + JITTER * (2 * unit - 1)))


def disruption_delay(uid: str, key: TaskKey, disruptions: int) -> timedelta:
    """Delay before the attempt after this many disruptions: none at first, then as for retries.

    The first replacement comes at once, since most disruptions come alone; a node that kills every pod must
    not drive a tight loop.
    """
    if disruptions <= 1:
        return timedelta(0)
    return backoff(uid, key, disruptions - 1)
