"""The final status of AgentTasks that the cache received late, or not at all."""

from typing import Any

from tests.unit.control.loop_fixture import ControlLoopFixture, played
from tests.unit.domain.runs import SUCCESS

from perdure.control.status.backfill import find_unreported
from perdure.domain.phases import Phase
from perdure.domain.records import AGENT_TASK, TaskKey

A = TaskKey("a")


async def ended(stage: ControlLoopFixture) -> None:
    """The run's only task succeeds; its AgentTask is in the cluster."""
    await stage.ensure()
    stage.history.reported(A, SUCCESS)
    assert stage.history.phase is Phase.SUCCEEDED
    stage.live.published.dirty.clear()
    stage.cluster.calls.clear()


async def seek(stage: ControlLoopFixture) -> list[tuple[Any, ...]]:
    """Returns what was asked of the API server."""
    await find_unreported(stage.live, store=stage.store, kube=stage.cluster, now=stage.history.now)
    assert stage.live.published.backfilled
    return stage.cluster.calls


def test_one_that_no_cache_has_shown_is_asked_for() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a"})
        await ended(stage)
        (name,) = stage.names(AGENT_TASK)
        stage.store.of(stage.live.key).tasks.clear()
        stage.store._entries.clear()
        assert await seek(stage) == [("list", AGENT_TASK)]
        assert set(stage.live.published.dirty) == {A}
        assert name in stage.store.of(stage.live.key).tasks

    played(scenario())


def test_an_agent_task_that_came_after_its_task_ended_gets_a_status() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a"})
        await ended(stage)
        assert await seek(stage) == [], "it is there"
        assert set(stage.live.published.dirty) == {A}

    played(scenario())


def test_an_agent_task_with_its_final_status_is_left_alone() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a"})
        await ended(stage)
        stage.live.published.final_status_written.add(A)
        stage.store.of(stage.live.key).tasks.clear()
        assert await seek(stage) == []
        assert not stage.live.published.dirty

    played(scenario())


def test_what_has_no_object_is_not_asked_for() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "wait": {"duration": "1s"}})
        stage.history.now = stage.history.moment(2)
        await stage.step()
        assert stage.history.phase is Phase.SUCCEEDED
        stage.cluster.calls.clear()
        assert await seek(stage) == []

    played(scenario())
