"""Schedules under the whole operator: each due time has exactly one run, whatever dies around it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from perdure.domain.schedules.schedule import run_name
from tests.fakes.agents import parts_of
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.clock import START, run
from tests.fakes.faults import NONE, Profile
from tests.fakes.schedules import KIND, schedule
from tests.fakes.world import World, eventually

SPEC = {"steps": [{"name": "only", "agent": {"image": "agent"}, "retry": {"limit": 50}}]}
#: Without failing agents: how a run ends is the business of other tests.
ODDS = Profile(
    odds={
        "refused": 0.05,
        "answer lost": 0.05,
        "event lost": 0.1,
        "event twice": 0.1,
        "event late": 0.1,
        "pod disrupted": 0.05,
    }
)
MINUTES = 8
SEEDS = int(os.environ.get("SEEDS", "20"))


class Watched:
    """A world that notes every Workflow that is created, and those that were live at that moment."""

    def __init__(self, seed: int, profile: Profile = NONE) -> None:
        self.at = World(seed, profile)
        #: How often each run was created.
        self.made: Counter[str] = Counter()
        #: Runs that were live when another was created.
        self.live_at: dict[str, list[str]] = {}
        on_made = self.at.api.on_made

        def noted(kind: str, obj: dict[str, Any]) -> None:
            if kind == "Workflow":
                name = obj["metadata"]["name"]
                self.made[name] += 1
                self.live_at[name] = [other for other in self.live() if other != name]
            on_made(kind, obj)

        self.at.api.on_made = noted

    def live(self) -> list[str]:
        """Runs that have not ended, as far as the cluster shows."""
        return [
            obj["metadata"]["name"]
            for obj in self.at.api.all("Workflow")
            if (obj.get("status") or {}).get("phase") not in ("Succeeded", "Failed", "Cancelled")
        ]

    def apply(self, name: str, **fields: Any) -> None:
        self.at.api.create(KIND, NAMESPACE, schedule(name, SPEC, **fields))

    def status(self, name: str) -> dict[str, Any]:
        return self.at.status(name, kind=KIND)

    async def until(self, seconds: float) -> None:
        await asyncio.sleep(seconds - asyncio.get_running_loop().time())


def names(schedule: str, minutes: range) -> list[str]:
    """The runs of these minutes after the start of time."""
    return [run_name(schedule, START + timedelta(minutes=minute)) for minute in minutes]


async def _kill_again_and_again(watched: Watched, until: float) -> None:
    """Kill the operator near the full minutes, when everything happens, and let it be away for a while."""
    at, loop = watched.at, asyncio.get_running_loop()
    while loop.time() < until:
        to_minute = 60 - loop.time() % 60
        await asyncio.sleep(max(0.0, to_minute + at.faults.between(-0.5, 1.0)))
        for _ in range(3):
            await at.kill_operator()
            await asyncio.sleep(at.faults.between(0.0, 3.0))
            at.start_operator()
            await asyncio.sleep(at.faults.between(0.0, 0.5))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_due_time_has_exactly_one_run_whatever_dies_around_it(seed: int) -> None:
    async def scenario() -> None:
        watched = Watched(seed, ODDS)
        watched.at.start_operator()
        watched.apply("keep", successfulHistoryLimit=1000, failedHistoryLimit=1000)
        watched.apply("short", successfulHistoryLimit=0, failedHistoryLimit=0)
        watched.apply("replace", concurrencyPolicy="Replace")
        kills = asyncio.create_task(_kill_again_and_again(watched, 60.0 * MINUTES))
        await watched.until(60.0 * MINUTES + 30)
        await kills
        watched.at.faults.quiesced = True
        for name in ("keep", "short", "replace"):
            made = {run: times for run, times in watched.made.items() if run.startswith(f"{name}-")}
            assert made == dict.fromkeys(names(name, range(1, MINUTES + 1)), 1), name
        # Runs end, and what is kept of them is what was asked for.
        await eventually(
            lambda: not set(watched.live()) & set(names("short", range(MINUTES + 1))), seconds=600
        )
        await watched.at.close()

    run(scenario())


def test_history_and_status_come_to_rest() -> None:
    async def scenario() -> None:
        watched = Watched(1)
        watched.at.start_operator()
        watched.apply("often", successfulHistoryLimit=2)
        await watched.until(60.0 * MINUTES + 45)
        kept = sorted(obj["metadata"]["name"] for obj in watched.at.api.all("Workflow"))
        assert kept == names("often", range(MINUTES - 1, MINUTES + 1))
        status = watched.status("often")
        assert status["lastScheduleTime"] == f"2026-01-01T00:0{MINUTES}:00Z"
        assert status["nextScheduleTime"] == f"2026-01-01T00:0{MINUTES + 1}:00Z"
        assert status["lastSuccessfulTime"] > status["lastScheduleTime"]
        assert "active" not in status
        await watched.at.close()

    run(scenario())


def test_runs_start_at_the_full_minute() -> None:
    async def scenario() -> None:
        watched = Watched(2)
        watched.at.start_operator()
        watched.apply("often")
        await watched.until(60.0)
        assert not watched.made
        await watched.until(60.2)
        assert list(watched.made) == names("often", range(1, 2))
        await watched.at.close()

    run(scenario())


def test_an_operator_that_was_away_makes_up_for_the_newest_time_only() -> None:
    async def scenario() -> None:
        watched = Watched(3)
        watched.at.start_operator()
        watched.apply("any")
        watched.apply("soon", startingDeadline="10s")
        await watched.until(65.0)
        await watched.at.kill_operator()
        await watched.until(60.0 * 5 + 30)
        watched.at.start_operator()
        await watched.until(60.0 * 5 + 40)
        assert sorted(run for run in watched.made if run.startswith("any-")) == [
            *names("any", range(1, 2)),
            *names("any", range(5, 6)),
        ]
        assert "3 missed times" in watched.status("any")["message"]
        assert [run for run in watched.made if run.startswith("soon-")] == names("soon", range(1, 2))
        assert "startingDeadline 10s" in watched.status("soon")["message"]
        await watched.at.close()

    run(scenario())


@pytest.mark.parametrize("seed", range(10))
def test_forbid_never_has_two_at_once(seed: int) -> None:
    async def scenario() -> None:
        watched = Watched(seed, ODDS)
        watched.at.behaviour.work = (30.0 / parts_of("only"), 100.0 / parts_of("only"))
        watched.at.start_operator()
        watched.apply("alone", concurrencyPolicy="Forbid")
        kills = asyncio.create_task(_kill_again_and_again(watched, 60.0 * MINUTES))
        await watched.until(60.0 * MINUTES + 30)
        await kills
        assert len(watched.made) > 2
        assert not {run: live for run, live in watched.live_at.items() if live}
        await watched.at.close()

    run(scenario())


def test_replace_cancels_what_is_still_live() -> None:
    async def scenario() -> None:
        watched = Watched(4)
        watched.at.behaviour.work = (100.0, 100.0)
        watched.at.start_operator()
        watched.apply("newest", concurrencyPolicy="Replace", failedHistoryLimit=10)
        await watched.until(60.0 * 4 + 30)
        phases = {obj["metadata"]["name"]: obj["status"]["phase"] for obj in watched.at.api.all("Workflow")}
        *replaced, newest = names("newest", range(1, 5))
        assert phases == {**dict.fromkeys(replaced, "Cancelled"), newest: "Running"}
        await watched.at.close()

    run(scenario())
