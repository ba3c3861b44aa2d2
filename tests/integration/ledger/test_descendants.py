"""Children are counted at the run that is above all: once for each attempt, up to the limit."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest

from perdure.domain.phases import Phase
from perdure.domain.records import ChildClaim, Commit, RunState, TaskKey, VersionConflict
from perdure.ledger import Ledger
from tests.integration.ledger import samples
from tests.integration.ledger.samples import at

KEYS = [TaskKey("each", index) for index in range(4)]


async def claim(
    ledger: Ledger, state: RunState, key: TaskKey, *, most: int = 3, owner: str = ""
) -> ChildClaim:
    attempt = state.attempts[key]
    return await ledger.claim_child(state.run, attempt, owner_uid=owner or None, most=most)


async def started(
    ledger: Ledger, epoch: int, *, uid: str = "", child: str = "", name: str = "audit"
) -> RunState:
    """A run with open attempts; the object of the first one is the run with the uid `child`."""
    run = samples.run_record(uid=uid or None, name=name)
    attempts = {
        key: samples.attempt_record(
            key, pod_name=f"{name}-{key.index}", pod_uid=child if child and not key.index else None
        )
        for key in KEYS
    }
    tasks = tuple(samples.task_record(key, phase=Phase.RUNNING) for key in KEYS)
    await ledger.commit(Commit(run=run, tasks=tasks, attempts=tuple(attempts.values())), epoch=epoch)
    state = await ledger.load(run.uid)
    assert state is not None
    return state


async def test_each_attempt_counts_once_and_the_limit_is_exact(ledger: Ledger, epoch: int) -> None:
    state = await started(ledger, epoch)
    for key in (*KEYS[:3], *KEYS[:3]):
        assert await claim(ledger, state, key) == ChildClaim(granted=True, depth=0)
    assert await claim(ledger, state, KEYS[3]) == ChildClaim(granted=False, depth=0)
    assert await claim(ledger, state, KEYS[3], most=4) == ChildClaim(granted=True, depth=0)


async def test_children_of_children_count_at_the_first_run(ledger: Ledger, epoch: int) -> None:
    child, grandchild = str(uuid.uuid4()), str(uuid.uuid4())
    top = await started(ledger, epoch, child=child)
    middle = await started(ledger, epoch, uid=child, child=grandchild, name="audit-0")
    lowest = await started(ledger, epoch, uid=grandchild, name="audit-0-0")
    assert (await claim(ledger, lowest, KEYS[0])) == ChildClaim(granted=True, depth=2)
    assert (await claim(ledger, middle, KEYS[1])) == ChildClaim(granted=True, depth=1)
    assert (await claim(ledger, top, KEYS[1])) == ChildClaim(granted=True, depth=0)
    assert (await claim(ledger, lowest, KEYS[1])) == ChildClaim(granted=False, depth=2)


async def test_a_child_whose_uid_is_not_recorded_is_found_by_its_owner(ledger: Ledger, epoch: int) -> None:
    top = await started(ledger, epoch)
    child = await started(ledger, epoch, name="audit-1")
    assert (await claim(ledger, child, KEYS[0])).depth == 0
    assert (await claim(ledger, child, KEYS[1], owner=top.run.uid)) == ChildClaim(granted=True, depth=1)
    other = replace(child, run=replace(child.run, namespace="team-b"))
    assert (await claim(ledger, other, KEYS[2], owner=top.run.uid)).depth == 0, "owners are of the namespace"


async def test_claims_at_once_do_not_exceed_the_limit(ledger: Ledger, epoch: int) -> None:
    state = await started(ledger, epoch)
    claims = await asyncio.gather(*(claim(ledger, state, key, most=2) for key in KEYS * 3))
    assert len({key for key, made in zip(KEYS * 3, claims, strict=True) if made.granted}) == 2


async def test_a_closed_attempt_creates_nothing(ledger: Ledger, epoch: int) -> None:
    state = await started(ledger, epoch)
    closed = replace(state.attempts[KEYS[0]], closed_at=at(9), outcome=Phase.CANCELLED)
    await ledger.commit(Commit(run=state.run, attempts=(closed,)), epoch=epoch)
    with pytest.raises(VersionConflict):
        await claim(ledger, state, KEYS[0])
