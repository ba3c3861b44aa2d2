"""Runs whose ledger is away: those that want to act say so within five seconds, at a bounded rate."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from perdure.control.runs.live_runs import UNAVAILABLE_RATE
from perdure.domain.phases import Phase, Reason
from tests.fakes.clock import run
from tests.fakes.world import World, eventually

AGENT = {"image": "agent"}
CHAIN = {
    "steps": [
        {"name": "first", "agent": AGENT},
        {"name": "second", "agent": AGENT, "input": "${steps.first.output}"},
    ]
}
WAITING = {"steps": [{"name": "a", "wait": {"duration": "10m"}}]}
#: Seconds within which a status names the cause for waiting.
SHOWN_WITHIN = 5.0


def _reconciling(status: dict[str, Any]) -> str:
    return next(
        (item["reason"] for item in status.get("conditions", ()) if item["type"] == "Reconciling"), ""
    )


def _say_so(at: World, names: list[str]) -> list[str]:
    return [name for name in names if _reconciling(at.status(name)) == Reason.LEDGER_UNAVAILABLE]


async def _started(at: World, count: int, spec: Mapping[str, Any] = CHAIN) -> tuple[list[str], list[str]]:
    """Names and uids of runs that the operator has in memory."""
    at.start_operator()
    names = [f"chain-{number}" for number in range(count)]
    uids = [at.apply(name, spec) for name in names]
    await eventually(lambda: all(at.status(name).get("phase") == Phase.RUNNING.value for name in names))
    return names, uids


@pytest.mark.parametrize("hanging", [False, True])
@pytest.mark.parametrize("count", [1, 60])
def test_runs_that_want_to_act_say_so(hanging: bool, count: int) -> None:
    """Also more runs than there are workers, while every worker waits for an answer."""

    async def scenario() -> None:
        at = World(21)
        names, uids = await _started(at, count)
        at.ledger.leave(hanging=hanging)
        for name in names:
            at.desire(name, "Paused")
        await eventually(lambda: _say_so(at, names) == names, seconds=SHOWN_WITHIN)
        for name in names:
            assert at.status(name)["phase"] == Phase.RUNNING.value, "what was known stays"
            at.desire(name, "Running")
        at.ledger.come_back()
        await eventually(lambda: not _say_so(at, names))
        ended = await at.until_ended(uids)
        assert {run.phase for run in ended} == {Phase.SUCCEEDED}
        await eventually(lambda: all(at.status_written(name) for name in names))
        assert not _say_so(at, names)
        at.check(uids)
        await at.close()

    run(scenario())


def test_a_new_run_says_so_while_the_ledger_hangs() -> None:
    async def scenario() -> None:
        at = World(23)
        at.start_operator()
        await eventually(lambda: at.operator is not None and at.operator.loop.reconciling)
        at.ledger.leave(hanging=True)
        uid = at.apply("chain", CHAIN)
        await eventually(lambda: _say_so(at, ["chain"]), seconds=SHOWN_WITHIN)
        at.ledger.come_back()
        await at.until_ended([uid])
        await at.close()

    run(scenario())


def test_a_thousand_runs_say_so_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        at = World(24)
        names, uids = await _started(at, 400, WAITING)
        await asyncio.sleep(20)
        times: list[float] = []
        patch_status = at.api.patch_status

        def noted(kind: str, namespace: str, name: str, body: Any) -> Any:
            times.append(asyncio.get_running_loop().time())
            return patch_status(kind, namespace, name, body)

        at.ledger.leave(hanging=True)
        monkeypatch.setattr(at.api, "patch_status", noted)
        for name in names:
            at.desire(name, "Paused")
        await eventually(lambda: len(_say_so(at, names)) == len(names), seconds=SHOWN_WITHIN)
        for time, later in itertools.pairwise(times[:: UNAVAILABLE_RATE // 5]):
            assert later - time > 0.1, "a fifth of a second's patches in less than a tenth"
        at.ledger.come_back()
        for name in names:
            at.desire(name, "Running")
        await at.until_ended(uids)
        await at.close()

    run(scenario())
