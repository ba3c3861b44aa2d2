"""Agents that should give signs of life and have never reached the gateway."""

from datetime import timedelta

import pytest
from tests.unit.control.lives import Live
from tests.unit.domain.clock import START

from perdure.control.status.unheard import SILENCE, note_unheard
from perdure.domain.engine.observed import Observed
from perdure.domain.records import TaskKey, Vitals

A = TaskKey("a")
TEXT = "the agent of attempt 1 has not reached the gateway since its start"


def running(**fields: str) -> Live:
    live = Live({"name": "a", **fields})
    pod = live.pod(A, phase="Running", started_at=START)
    live.made(A)
    live.settle(Observed(pods={A: pod}))
    live.pods[pod.name] = pod
    return live


@pytest.mark.parametrize("early", [True, False])
def test_silence_is_written_to_both_statuses_in_time(early: bool) -> None:
    live = running(idleTimeout="5m")
    started = live.view.attempts[A].started_at
    assert started is not None
    live.now = started + SILENCE - timedelta(milliseconds=1 if early else 0)
    due = note_unheard(live.live, live.now)
    assert due == (started + SILENCE if early else None)
    assert live.live.published.changed == (set() if early else {A})
    step = live.status()["steps"][0]
    assert step.get("message", "") == ("" if early else TEXT)
    assert live.task_status(A).get("message", "") == ("" if early else TEXT)


def test_it_is_noted_once() -> None:
    live = running(idleTimeout="5m")
    note_unheard(live.live, live.now + SILENCE * 2)
    live.live.published.changed.clear()
    assert note_unheard(live.live, live.now + SILENCE * 3) is None
    assert not live.live.published.changed


def test_a_sign_of_life_ends_it() -> None:
    live = running(idleTimeout="5m")
    live.now += SILENCE * 2
    live.live.updates.vitals[A] = Vitals(key=A, attempt=1, changed_at=live.now)
    assert note_unheard(live.live, live.now) is None
    assert "message" not in live.task_status(A)


def test_a_container_without_idle_timeout_need_not_know_the_gateway() -> None:
    live = running()
    live.now += SILENCE * 2
    assert note_unheard(live.live, live.now) is None
    assert "message" not in live.task_status(A)
