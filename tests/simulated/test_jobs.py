"""Attempts that are Jobs: one pod each, whatever is lost, and no retries by the Job controller."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from perdure.domain.phases import Phase
from perdure.domain.records import TaskKey
from tests.fakes.clock import run
from tests.fakes.faults import Profile
from tests.fakes.world import World, eventually

AGENT = {"image": "agent", "executor": "Job"}
CHAIN: dict[str, Any] = {
    "steps": [
        {"name": "first", "agent": AGENT},
        {"name": "second", "agent": AGENT, "input": "${steps.first.output}"},
    ],
}
#: Jobs next to pods, so that mistaking one for the other shows.
FAN: dict[str, Any] = {
    "parallelism": 4,
    "defaults": {"retry": {"limit": 50, "backoff": {"max": "5s"}}, "disruptions": {"limit": 100}},
    "steps": [
        {"name": "split", "agent": AGENT},
        {"name": "each", "forEach": list(range(4)), "dependsOn": ["split"], "agent": AGENT},
        {"name": "plain", "dependsOn": ["split"], "agent": {"image": "agent"}},
        {"name": "join", "agent": AGENT, "input": "${steps.each.outputs}", "dependsOn": ["plain"]},
    ],
}
ODDS = Profile(
    odds={
        "refused": 0.05,
        "answer lost": 0.05,
        "event lost": 0.1,
        "event twice": 0.1,
        "event late": 0.1,
        "pod disrupted": 0.1,
        "agent fails": 0.1,
    }
)
SEEDS = int(os.environ.get("SEEDS", "60"))
#: Seeds that failed once, each with what was wrong.
FAILED_ONCE: dict[int, str] = {}


def _task(at: World, uid: str, step: str) -> Any:
    return at.tasks(uid).get(TaskKey(step))


async def _until_running(at: World, uid: str, step: str) -> None:
    await eventually(lambda: (task := _task(at, uid, step)) is not None and task.phase is Phase.RUNNING)


def _owners(at: World) -> dict[str, list[str]]:
    """Kinds of the owners of all pods, by the pods' names."""
    return {
        pod["metadata"]["name"]: [owner["kind"] for owner in pod["metadata"]["ownerReferences"]]
        for pod in at.api.all("Pod")
    }


def test_a_chain_of_jobs() -> None:
    async def scenario() -> None:
        at = World(1)
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        at.check([uid])
        jobs = {job["metadata"]["name"] for job in at.api.all("Job")}
        assert jobs == {attempt.pod_name for attempt in at.attempts(uid).values()}
        assert dict(at.pods_created) == dict.fromkeys(jobs, 1)
        assert set(map(tuple, _owners(at).values())) == {("Job",)}
        await eventually(lambda: at.status_written("chain"))
        await at.close()

    run(scenario())


def test_a_deleted_job_is_a_disruption() -> None:
    async def scenario() -> None:
        at = World(2)
        at.behaviour.work = 20.0, 30.0
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        await _until_running(at, uid, "first")
        (job,) = at.api.all("Job")
        at.api.remove("Job", "default", job["metadata"]["name"])
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        at.check([uid])
        first = _task(at, uid, "first")
        assert (first.attempt, first.disruptions, first.retries) == (2, 1, 0)
        await at.close()

    run(scenario())


@pytest.mark.parametrize("grace", [0.0, 3.0])
def test_a_paused_run_has_no_job_and_goes_on(grace: float) -> None:
    async def scenario() -> None:
        at = World(3)
        at.behaviour.work = 5.0, 10.0
        at.nodes.grace = grace
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        await _until_running(at, uid, "first")
        at.desire("chain", "Paused")
        await eventually(lambda: not at.pods() and at.status("chain").get("phase") == "Paused")
        made = at.pods_created.total()
        await asyncio.sleep(300)
        assert at.pods_created.total() == made
        at.desire("chain", "Running")
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        at.check([uid])
        assert _task(at, uid, "first").disruptions == 0
        await at.close()

    run(scenario())


def test_a_job_without_a_pod_is_waited_for_and_given_up_in_time() -> None:
    async def scenario() -> None:
        at = World(4)
        at.nodes.jobs_get_pods = False
        at.start_operator()
        uid = at.apply("stuck", {"steps": [{"name": "first", "agent": AGENT, "pendingTimeout": "2m"}]})
        await eventually(lambda: "kubectl describe job" in str(at.status("stuck")))
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.FAILED
        assert "PendingTimeout" in str(at.steps(uid)["first"].reason)
        assert ended.finished_at is not None
        assert 120 <= (ended.finished_at - ended.created_at).total_seconds() < 125
        await eventually(lambda: not at.api.all("Job"))
        await at.close()

    run(scenario())


@pytest.mark.parametrize("seed", [*FAILED_ONCE, *range(SEEDS)])
def test_every_run_of_jobs_ends_as_if_nothing_had_happened(seed: int) -> None:
    async def scenario() -> None:
        at = World(seed, ODDS)
        at.nodes.grace = at.faults.choice([0.0, 2.0])
        at.start_operator()
        uid = at.apply("fan", FAN)
        ended: asyncio.Task[Any] = asyncio.create_task(at.until_ended([uid]))
        kills = 0
        while not ended.done():
            await asyncio.wait({ended}, timeout=at.faults.between(0.05, 15.0))
            if not ended.done() and kills < 12:
                kills += 1
                await at.kill_operator()
                await asyncio.sleep(at.faults.between(0.0, 5.0))
                at.start_operator()
        (record,) = await ended
        assert record.phase is Phase.SUCCEEDED, record
        at.check([uid])
        at.faults.quiesced = True
        await eventually(lambda: at.status_written("fan"))
        await at.close()

    run(scenario())
