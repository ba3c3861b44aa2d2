"""The highest rate that a system keeps up with, from what happened while the rate rose."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

#: Periods in a row in which the queue must have grown: one alone may be a hiccup of the machine.
IN_A_ROW = 4
#: Seconds of work that may wait without counting as a queue: a run takes time even without a queue.
ALLOWED = 3.0


@dataclass(frozen=True, slots=True)
class Period:
    """A period in which one rate is held."""

    #: Runs that arrived and runs that ended, per second.
    rate: float
    ended: float
    #: Runs that had arrived and not ended at the end of the period.
    waiting: int


def sustained(periods: Sequence[Period]) -> float | None:
    """The rate of the last period before the queue grew for good; None as long as it has not.

    It grows for good when it is longer after each of several periods in a row, and holds more than some
    seconds' work in the end.
    """
    if len(periods) <= IN_A_ROW:
        return None
    tail = periods[-IN_A_ROW - 1 :]
    grew = all(after.waiting > before.waiting for before, after in itertools.pairwise(tail))
    if not grew or periods[-1].waiting <= ALLOWED * periods[-1].rate:
        return None
    return tail[0].rate
