"""Letting one load pass before the next is measured."""

from __future__ import annotations

from tests.bench.rig import Rig
from tests.bench.say import say
from tests.support.waiting import until

#: Seconds that what follows from one load is given before the next.
_WITHIN = 60.0


async def rest(rig: Rig, label: str) -> None:
    """Wait for rest, a minute at most: late work of one load, such as statuses, is no part of the next."""
    try:
        await until(rig.at_rest, within=_WITHIN)
    except TimeoutError:
        say(f"there is no rest before: {label}")
    else:
        say(label)
