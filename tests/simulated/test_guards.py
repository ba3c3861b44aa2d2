"""One namespace that is forbidden, or one object that cannot be handled, next to others that can."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import Root
from perdure.control.live_run import LiveRun
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.runs.reconciler import Reconciler
from perdure.control.runs.status_source import RunStatusSource
from perdure.domain.phases import Phase
from perdure.kube.recorder import EventRecorder
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.clock import run
from tests.fakes.world import World, eventually
from tests.simulated.test_hostile import CHAIN, THEIRS, Panic

#: A run that ends at once, and whose history may go a second later.
SHORT = {"retention": {"ttlAfterFinished": "1s"}, "steps": [{"name": "a", "wait": {"duration": "1s"}}]}


async def succeeds(at: World, name: str, namespace: str = NAMESPACE) -> None:
    (ended,) = await at.until_ended([at.apply(name, CHAIN, namespace=namespace)])
    assert ended.phase is Phase.SUCCEEDED


@pytest.mark.parametrize("status", [403, 404])
def test_a_namespace_that_cannot_be_read_is_left_out_and_asked_again(status: int) -> None:
    async def scenario() -> None:
        at = World(1)
        at.namespaces = (NAMESPACE, THEIRS, "team-c")
        theirs = at.apply("theirs", CHAIN, namespace=THEIRS)
        at.api.forbid(THEIRS, status)
        operator = at.start_operator()
        await succeeds(at, "first")
        await succeeds(at, "second", "team-c")
        assert theirs not in at.ledger.rows
        (line,) = [line for line in operator.loop.findings() if THEIRS in line]
        assert "is left out" in line and str(status) in line
        assert operator.loop.left_out.keys() == {THEIRS}
        at.api.allow(THEIRS)
        (ended,) = await at.until_ended([theirs], seconds=120)
        assert ended.phase is Phase.SUCCEEDED
        await eventually(lambda: not operator.loop.left_out)
        assert operator.alive
        await at.close()

    run(scenario())


def test_a_namespace_that_is_forbidden_later_stops_no_other() -> None:
    async def scenario() -> None:
        at = World(2)
        at.namespaces = (NAMESPACE, THEIRS)
        operator = at.start_operator()
        theirs = at.apply("theirs", {"steps": [{"name": "a", "wait": {"duration": "5m"}}]}, namespace=THEIRS)
        await eventually(lambda: theirs in at.ledger.rows)
        at.api.forbid(THEIRS, 403)
        await asyncio.sleep(100)
        assert operator.loop.left_out.keys() == {THEIRS}, "the periodic relist has found out"
        await succeeds(at, "ours")
        await asyncio.sleep(400)
        await succeeds(at, "later")
        at.api.allow(THEIRS)
        (ended,) = await at.until_ended([theirs], seconds=200)
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


def test_a_cluster_that_may_not_be_listed_is_waited_for() -> None:
    """Without namespaces there is nothing to leave out, and no decision without a full relist."""

    async def scenario() -> None:
        at = World(3)
        at.api.roles_unread = True
        operator = at.start_operator()
        uid = at.apply("audit", CHAIN)
        await asyncio.sleep(300)
        assert uid not in at.ledger.rows and operator.alive
        at.api.roles_unread = False
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())


async def expire(at: World, names: Sequence[str], namespace: str) -> list[str]:
    uids = [at.apply(name, SHORT, namespace=namespace) for name in names]
    await at.until_ended(uids)
    return uids


def test_runs_that_may_not_be_deleted_delay_no_other() -> None:
    async def scenario() -> None:
        at = World(4)
        at.start_operator()
        at.api.undeletable.add(THEIRS)
        # More than a batch, and older than all others.
        theirs = await expire(at, [f"kept-{number}" for number in range(120)], THEIRS)
        ours = await expire(at, ["one", "two", "three"], NAMESPACE)
        await eventually(lambda: set(ours) <= at.ledger.forgotten, seconds=200)
        assert not at.ledger.forgotten & set(theirs)
        at.api.undeletable.clear()
        await eventually(lambda: set(theirs) <= at.ledger.forgotten, seconds=2 * 3600)
        await at.close()

    run(scenario())


def test_a_refused_deletion_is_repeated_with_backoff() -> None:
    async def scenario() -> None:
        at = World(5)
        at.start_operator()
        at.api.undeletable.add(THEIRS)
        times: list[float] = []
        check = at.api.check_allowed

        def counted(verb: str, kind: str, namespace: str | None) -> None:
            if (verb, kind, namespace) == ("delete", "Workflow", THEIRS):
                times.append(asyncio.get_running_loop().time())
            check(verb, kind, namespace)

        at.api.check_allowed = counted  # type: ignore[method-assign]
        await expire(at, ["kept"], THEIRS)
        await asyncio.sleep(6 * 3600)
        pauses = [later - earlier for earlier, later in pairwise(times)]
        rounded = [round(pause, -2) for pause in pauses]
        assert rounded == sorted(rounded) and 50 < pauses[0] < 150
        assert 3500 < pauses[-1] < 3700, "an hour at most"
        await at.close()

    run(scenario())


def test_expired_results_are_deleted_though_the_query_for_runs_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[datetime] = []

    async def scenario() -> None:
        at = World(6)
        operator = at.start_operator()
        forget = operator.ledger.forget_cache

        async def fails(now: datetime, *, limit: int) -> Any:
            raise ValueError("a row of another version")

        async def counted(now: datetime, *, limit: int, epoch: int) -> int:
            asked.append(now)
            return await forget(now, limit=limit, epoch=epoch)

        operator.ledger.expired = fails  # type: ignore[method-assign]
        operator.ledger.forget_cache = counted  # type: ignore[method-assign]
        await asyncio.sleep(100)
        assert len(asked) >= 3 and operator.alive
        await succeeds(at, "ours")
        await at.close()

    run(scenario())


@pytest.mark.parametrize("error", [ValueError("odd"), Panic("native")])
def test_a_status_that_cannot_be_computed_stops_no_other(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = RunStatusSource.statuses

    def fails(self: RunStatusSource, key: RunKey, *args: Any, **options: Any) -> Any:
        if key.namespace == THEIRS:
            raise error
        return statuses(self, key, *args, **options)

    monkeypatch.setattr(RunStatusSource, "statuses", fails)

    async def scenario() -> None:
        at = World(7)
        operator = at.start_operator()
        await succeeds(at, "theirs", THEIRS)
        await succeeds(at, "ours")
        await eventually(lambda: at.status("ours").get("phase") == "Succeeded")
        assert operator.alive
        assert any(line.startswith("status: passed over") for line in operator.loop.findings())
        await at.close()

    run(scenario())


@pytest.mark.parametrize("method", ["request_full_pass", "note_wake"])
@pytest.mark.parametrize("error", [KeyError("odd"), Panic("native")])
def test_a_live_run_that_breaks_a_loop_stops_no_other(
    method: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(LiveRuns, method)
    broken: list[str] = []

    def fails(self: LiveRuns, argument: Any) -> Any:
        live = self.by_uid.get(getattr(argument, "uid", ""))
        if live is not None and live.key.namespace == THEIRS:
            broken.append(live.key.name)
            raise error
        return original(self, argument)

    monkeypatch.setattr(LiveRuns, method, fails)

    async def scenario() -> None:
        at = World(8)
        at.behaviour.reports = True
        operator = at.start_operator()
        steps = [{"name": "a", "agent": {"image": "agent"}}, {"name": "b", "wait": {"duration": "5m"}}]
        at.apply("theirs", {"steps": steps}, namespace=THEIRS)
        await eventually(lambda: bool(broken), seconds=200)
        await succeeds(at, "ours")
        assert operator.alive
        await at.close()

    run(scenario())


def test_a_defect_that_one_run_triggers_is_written_to_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[float] = []
    reconcile = Reconciler._advance
    broken = True

    async def breaks(self: Reconciler, live: LiveRun, root: Root) -> float | None:
        if live.key.namespace != THEIRS or not broken:
            return await reconcile(self, live, root)
        passes.append(asyncio.get_running_loop().time())
        raise RuntimeError("password=hunter2 in a message")

    monkeypatch.setattr(Reconciler, "_advance", breaks)

    def shown(at: World) -> dict[str, Any]:
        status = (at.find("Workflow", "theirs", THEIRS) or {}).get("status") or {}
        return {it["type"]: it for it in status.get("conditions") or ()}

    async def scenario() -> None:
        nonlocal broken
        at = World(9)
        operator = at.start_operator()
        events: list[tuple[str, str]] = []
        monkeypatch.setattr(
            EventRecorder,
            "record",
            lambda self, about, *, reason, message, **_: events.append((reason, message)),
        )
        uid = at.apply("theirs", CHAIN, namespace=THEIRS)
        await eventually(lambda: shown(at).get("Reconciling", {}).get("reason") == "ReconcileError")
        message = shown(at)["Reconciling"]["message"]
        assert "RuntimeError" in message and "hunter2" not in message
        assert ("ReconcileError", message) in events
        await succeeds(at, "ours")
        await asyncio.sleep(3600)
        pauses = [later - earlier for earlier, later in pairwise(passes)]
        assert 290 < pauses[-1] < 310, "five minutes at most, whatever the relists enqueue"
        broken = False
        (ended,) = await at.until_ended([uid], seconds=400)
        assert ended.phase is Phase.SUCCEEDED
        await eventually(lambda: "Complete" in shown(at))
        assert shown(at)["Reconciling"]["status"] == "False" and operator.alive
        await at.close()

    run(scenario())


def test_a_namespace_whose_passes_hang_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    reconcile = Reconciler.reconcile

    async def hangs(self: Reconciler, key: RunKey) -> float | None:
        if key.namespace == THEIRS:
            await asyncio.sleep(3600)
        return await reconcile(self, key)

    monkeypatch.setattr(Reconciler, "reconcile", hangs)

    async def scenario() -> None:
        at = World(10)
        at.start_operator()
        for number in range(20):
            at.apply(f"theirs-{number}", CHAIN, namespace=THEIRS)
        await asyncio.sleep(10)
        (ended,) = await at.until_ended([at.apply("ours", CHAIN)], seconds=120)
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())
