"""A run whose passes kill the process is set aside after the second death, and all others go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.control.cluster_cache.run_objects import Root
from perdure.control.live_run import LiveRun
from perdure.control.runs import opening
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.runs.reconciler import Reconciler
from perdure.domain.phases import Phase
from perdure.kube.recorder import EventRecorder
from tests.fakes.clock import run
from tests.fakes.world import World, eventually
from tests.simulated.test_hostile import CHAIN, THEIRS


class Killed(BaseException):
    """Ends the code of a process that is dead already."""


class Poison:
    """Kills the process during passes over the runs of one namespace."""

    def __init__(self, at: World) -> None:
        self.at = at
        self.deaths = 0
        self.active = True

    async def take(self, namespace: str) -> None:
        if namespace == THEIRS and self.active:
            self.deaths += 1
            self.at.die()
            await asyncio.sleep(3600)


def poison_passes(monkeypatch: pytest.MonkeyPatch, at: World) -> Poison:
    poison, advance = Poison(at), Reconciler._advance

    async def kills(self: Reconciler, live: LiveRun, root: Root) -> float | None:
        await poison.take(live.key.namespace)
        return await advance(self, live, root)

    monkeypatch.setattr(Reconciler, "_advance", kills)
    return poison


async def supervise(at: World) -> None:
    """What the kubelet does: a container that has ended is started again."""
    while True:
        if at.operator is None:
            at.start_operator()
        await asyncio.sleep(2)


def conditions(at: World, name: str = "theirs", kind: str = "Workflow") -> dict[str, Any]:
    status = (at.find(kind, name, THEIRS) or {}).get("status") or {}
    return {it["type"]: (it["status"], it["reason"]) for it in status.get("conditions") or ()}


async def succeeds(at: World, name: str) -> None:
    (ended,) = await at.until_ended([at.apply(name, CHAIN)], seconds=120)
    assert ended.phase is Phase.SUCCEEDED


@pytest.mark.parametrize("change", ["annotation", "spec"])
def test_a_run_is_set_aside_after_two_deaths_and_until_its_object_changes(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(EventRecorder, "record", lambda self, about, *, reason, **_: events.append(reason))

    async def scenario() -> None:
        at = World(1)
        poison = poison_passes(monkeypatch, at)
        kubelet = asyncio.create_task(supervise(at))
        uid = at.apply("theirs", CHAIN, namespace=THEIRS)
        await eventually(lambda: conditions(at).get("Stalled") == ("True", "Quarantined"))
        assert poison.deaths == 2 and events.count("Quarantined") == 1
        await succeeds(at, "ours")
        await asyncio.sleep(1000)
        assert poison.deaths == 2, "relists do not bring the run back"
        assert at.operator is not None
        assert f"Workflow {THEIRS}/theirs is quarantined" in at.operator.loop.findings()

        edit(at, change, "first")
        await eventually(lambda: poison.deaths == 3)
        await asyncio.sleep(1000)
        assert poison.deaths == 3, "one death sets it aside again"

        poison.active = False
        edit(at, change, "second")
        (ended,) = await at.until_ended([uid], seconds=200)
        assert ended.phase is (Phase.SUCCEEDED if change == "annotation" else Phase.CANCELLED)
        await eventually(lambda: conditions(at).get("Stalled", ("", ""))[1] != "Quarantined")
        assert not at.ledger.suspects
        kubelet.cancel()
        await at.close()

    def edit(at: World, change: str, value: str) -> None:
        if change == "annotation":
            found = at.find("Workflow", "theirs", THEIRS)
            assert found is not None
            metadata = {**found["metadata"], "annotations": {"perdure.dev/reconcile": value}}
            at.api.change(found, "Workflow", metadata=metadata)
        else:
            state = "Paused" if value == "first" else "Cancelled"
            at.api.desire("Workflow", "theirs", state, namespace=THEIRS)

    run(scenario())


def test_acceptance_that_kills_is_set_aside_before_the_ledger_knows_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept = opening.accept

    async def scenario() -> None:
        at = World(2)
        poison = Poison(at)

        def kills(root: Root, *args: Any, **options: Any) -> Any:
            if root.key.namespace == THEIRS:
                poison.deaths += 1
                at.die()
                raise Killed
            return accept(root, *args, **options)

        monkeypatch.setattr(opening, "accept", kills)
        kubelet = asyncio.create_task(supervise(at))
        spec = {"agent": {"image": "agent"}}
        uid = at.apply("theirs", spec, kind="AgentTask", namespace=THEIRS)
        await eventually(lambda: conditions(at, kind="AgentTask").get("Stalled") == ("True", "Quarantined"))
        assert poison.deaths == 2 and uid not in at.ledger.rows
        await succeeds(at, "ours")
        kubelet.cancel()
        await at.close()

    run(scenario())


def test_a_live_run_that_kills_when_it_is_restored_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = LiveRuns.keep
    deaths = 0

    async def scenario() -> None:
        at = World(3)
        at.start_operator()
        uid = at.apply("theirs", {"steps": [{"name": "a", "wait": {"duration": "1h"}}]}, namespace=THEIRS)
        await eventually(lambda: uid in at.ledger.rows)

        def kills(self: LiveRuns, key: Any, *state: Any) -> Any:
            nonlocal deaths
            if key.namespace == THEIRS and at.operators:
                deaths += 1
                at.die()
                raise Killed
            return keep(self, key, *state)

        await at.kill_operator()
        monkeypatch.setattr(LiveRuns, "keep", kills)
        kubelet = asyncio.create_task(supervise(at))
        await eventually(lambda: conditions(at).get("Stalled") == ("True", "Quarantined"))
        assert deaths == 2 and not at.record(uid).phase.terminal
        await succeeds(at, "ours")
        kubelet.cancel()
        await at.close()

    run(scenario())


def test_kills_from_outside_and_ends_in_order_set_nothing_aside() -> None:
    async def scenario() -> None:
        at = World(4)
        uids = [at.apply(f"run-{number}", CHAIN) for number in range(4)]
        for _ in range(12):
            at.start_operator()
            await asyncio.sleep(0.7)
            await at.kill_operator()
        at.start_operator()
        ended = await at.until_ended(uids)
        assert {it.phase for it in ended} == {Phase.SUCCEEDED}
        assert not at.ledger.suspects
        await at.close()

    run(scenario())
