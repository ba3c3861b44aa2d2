"""Agents that run, and have never reached the gateway.

A container need not know the gateway. But an `idleTimeout` says that signs of life are expected, and an agent
that cannot reach the gateway (a NetworkPolicy, DNS, a wrong URL) would only show by the timeout's end.
"""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime, timedelta

from perdure.control.live_run import LiveRun
from perdure.domain.records import TaskKey

#: Time from the start of an agent until its silence is written to its status. The SDK sends its first
#: heartbeat as soon as it is started.
SILENCE = timedelta(seconds=10)


class Unheard(Container[TaskKey]):
    """The tasks of a run whose agents should have given a sign of life by `now`; asked one at a time."""

    def __init__(self, live: LiveRun, now: datetime) -> None:
        self._live = live
        self._now = now

    def __contains__(self, key: object) -> bool:
        if key not in self._live.view.idle:
            return False
        due = due_at(self._live, key)
        return due is not None and due <= self._now


def due_at(live: LiveRun, key: TaskKey) -> datetime | None:
    """When the silence of a started agent counts; None if the agent has given a sign of life."""
    attempt = live.view.attempts[key]
    vitals = live.updates.vitals.get(key)
    if attempt.started_at is None or (vitals is not None and vitals.attempt == attempt.number):
        return None
    return attempt.started_at + SILENCE


def note_unheard(live: LiveRun, now: datetime) -> datetime | None:
    """Have the statuses written of agents whose silence counts from now on. Returns when the next does."""
    following: datetime | None = None
    for key in live.view.idle:
        due = due_at(live, key)
        place = key, live.view.attempts[key].number
        if due is None or place in live.published.unheard:
            continue
        if due <= now:
            live.published.unheard.add(place)
            live.published.changed.add(key)
        elif following is None or due < following:
            following = due
    return following
