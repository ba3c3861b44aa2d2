"""Shares of memory and of uploads: bounded, fair by namespace, and given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from perdure.gateway.authn import Owner
from perdure.gateway.http.budget import Budget, Hold
from perdure.gateway.http.problems import Problem

A1, A2, A3, B1 = Owner("a", "1"), Owner("a", "2"), Owner("a", "3"), Owner("b", "1")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_caller_gets_its_share_and_no_more() -> None:
    budget = Budget(4, wait=0.01, per_caller=1)
    hold = await budget.hold(1, A1)
    with pytest.raises(Problem, match="busy"):
        await budget.hold(1, A1)
    await budget.hold(1, A2)
    hold.release()
    await budget.hold(1, A1)


async def test_a_namespace_cannot_hold_everything() -> None:
    budget = Budget(4, wait=0.01, per_caller=1, per_namespace=3)
    for owner in (A1, A2, A3):
        await budget.hold(1, owner)
    with pytest.raises(Problem, match="busy"):
        await budget.hold(1, Owner("a", "4"))
    await budget.hold(1, B1)
    assert budget.free == 0


async def test_what_is_freed_goes_to_the_namespace_that_holds_least() -> None:
    budget = Budget(2, wait=5)
    holds = [await budget.hold(1, A1), await budget.hold(1, A2)]
    order: list[str] = []

    async def wait(owner: Owner) -> Hold:
        hold = await budget.hold(1, owner)
        order.append(owner.namespace)
        return hold

    async with asyncio.TaskGroup() as group:
        for owner in (A3, A3, B1):
            group.create_task(wait(owner))
            await settle()
        holds[0].release()
        await settle()
        assert order == ["b"]
        holds[1].release()
        await settle()
        assert order == ["b", "a"]
        budget.give_back(B1, 1)


async def test_small_requests_do_not_starve_a_large_one() -> None:
    budget = Budget(10, wait=5)
    first = await budget.hold(8, A1)
    large = asyncio.create_task(budget.hold(6, B1))
    await settle()
    small = asyncio.create_task(budget.hold(1, A2))
    await settle()
    assert not small.done()
    first.release()
    await large
    await small


async def test_a_request_larger_than_the_budget_is_admitted_alone() -> None:
    budget = Budget(10, wait=0.01, per_caller=2)
    hold = await budget.hold(100, A1)
    assert budget.free == 0
    hold.release()
    assert budget.free == 10


async def test_waiting_requests_that_end_otherwise_give_everything_back() -> None:
    budget = Budget(1, wait=0.02)
    hold = await budget.hold(1, A1)
    cancelled = asyncio.create_task(budget.hold(1, A2))
    late = asyncio.create_task(budget.hold(1, B1))
    await settle()
    cancelled.cancel()
    with pytest.raises(Problem):
        await late
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    hold.release()
    assert budget.free == 1
    # Cancelled in the moment of its grant.
    hold = await budget.hold(1, A1)
    granted = asyncio.create_task(budget.hold(1, A2))
    await settle()
    hold.release()
    granted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await granted
    assert budget.free == 1


async def test_one_caller_cannot_fill_the_queue() -> None:
    budget = Budget(1, wait=5, queued_per_caller=2)
    hold = await budget.hold(1, B1)
    waiting = [asyncio.create_task(budget.hold(1, A1)) for _ in range(2)]
    await settle()
    with pytest.raises(Problem, match="busy"):
        await budget.hold(1, A1)
    hold.release()
    (await waiting[0]).release()
    (await waiting[1]).release()
    assert budget.free == 1
