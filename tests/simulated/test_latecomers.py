"""Requests that are executed after their sender has given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from perdure.domain.phases import Phase
from perdure.domain.records import WORKFLOW, Commit, Committed, LedgerError, LedgerUnavailable
from perdure.kube.page import Page
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.clock import run
from tests.fakes.operators import Operator
from tests.fakes.world import World, eventually

AGENT = {"image": "agent"}
CHAIN = {"steps": [{"name": "a", "agent": AGENT}, {"name": "b", "dependsOn": ["a"], "agent": AGENT}]}


def open_attempts(at: World) -> int:
    return sum(
        attempt.closed_at is None for rows in at.ledger.rows.values() for attempt in rows.attempts.values()
    )


def commit_late(
    operator: Operator, chosen: Callable[[Commit], bool], *, seconds: float
) -> list[asyncio.Task[Any]]:
    """Let the first chosen commit take effect long after its sender has seen it fail."""
    commit = operator.ledger.commit
    late: list[asyncio.Task[Any]] = []

    async def mutated(made: Commit, *, epoch: int) -> Committed:
        if not late and chosen(made):

            async def arrive() -> Committed | None:
                await asyncio.sleep(seconds)
                try:
                    return await commit(made, epoch=epoch)
                except LedgerError:
                    return None

            late.append(asyncio.create_task(arrive()))
            raise LedgerUnavailable("no answer")
        return await commit(made, epoch=epoch)

    operator.ledger.commit = mutated  # type: ignore[method-assign]
    return late


def makes_the_run(commit: Commit) -> bool:
    return commit.run.version == 0


def takes_its_turn(commit: Commit) -> bool:
    """Nothing but this has to be committed: without a slot, the next decision changes nothing."""
    return commit.run.version > 0 and all(attempt.closed_at is None for attempt in commit.attempts)


@pytest.mark.parametrize("which", [makes_the_run, takes_its_turn])
@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0, 20.0])
def test_a_commit_that_comes_late_exceeds_no_limit(which: Callable[[Commit], bool], seconds: float) -> None:
    """Its slots are not given to another run while it may still take them."""

    async def scenario() -> None:
        at = World(3, limit=1)
        late = commit_late(
            at.start_operator(),
            lambda commit: any(attempt.pod_uid is None for attempt in commit.attempts) and which(commit),
            seconds=seconds,
        )
        uids = [at.apply(name, CHAIN) for name in ("one", "two", "three")]
        ended = asyncio.create_task(at.until_ended(uids))
        most = 0
        while not ended.done():
            most = max(most, open_attempts(at))
            await asyncio.sleep(0.01)
        assert [record.phase for record in await ended] == [Phase.SUCCEEDED] * 3
        assert most == 1
        assert late
        assert await late[0] is None, "the run was taken forward without it"
        await eventually(lambda: all(at.status_written(name) for name in ("one", "two", "three")))
        await at.close()

    run(scenario())


def test_a_pod_created_by_a_late_request_is_not_left_behind() -> None:
    """Its attempt and its run have ended, so no pass expects the pod: a relist finds it."""

    async def scenario() -> None:
        at = World(4)
        at.start_operator()
        uid = at.apply("chain", CHAIN)
        (first,) = await until_there(at)
        await at.until_ended([uid])
        await eventually(lambda: at.status_written("chain"))
        at.behaviour.work = (1e6, 1e6)
        await at.kill_operator()
        name = first["metadata"]["name"]
        at.api.remove("Pod", NAMESPACE, name)
        fields = ("name", "labels", "ownerReferences")
        metadata = {field: first["metadata"][field] for field in fields}
        at.api.create("Pod", NAMESPACE, {**first, "metadata": metadata, "status": {}})
        at.start_operator()
        await eventually(lambda: at.find("Pod", name) is None)
        await at.close()

    run(scenario())


def test_a_list_from_the_past_does_not_end_the_run_that_came_after() -> None:
    """The first list of a new leader has a deleted run in place of the live run of the same name."""

    async def scenario() -> None:
        at = World(5)
        at.behaviour.work = (30.0, 30.0)
        at.start_operator()
        at.apply("chain", CHAIN)
        await until_there(at)
        past = at.find(WORKFLOW, "chain")
        at.api.remove(WORKFLOW, NAMESPACE, "chain")
        await eventually(lambda: not at.pods())
        uid = at.apply("chain", CHAIN)
        await until_there(at)
        await at.kill_operator()
        operator = at.start_operator()
        pages = operator.kube.pages

        async def from_the_past(kind: str, **options: Any) -> AsyncGenerator[Page, None]:
            if kind == WORKFLOW:
                yield Page([past], past["metadata"]["resourceVersion"], True)
                return
            async for page in pages(kind, **options):
                yield page

        operator.kube.pages = from_the_past  # type: ignore[method-assign]
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


async def until_there(at: World) -> list[dict[str, Any]]:
    await eventually(lambda: bool(at.pods()))
    return at.pods()
