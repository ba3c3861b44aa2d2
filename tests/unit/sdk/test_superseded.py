"""An attempt that was told that it is superseded stops, whatever its code makes of it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.unit.sdk.misbehaving import MisbehavingGateway, refuse

from perdure_agent import Environment, Options, Superseded, connect

SUPERSEDED = refuse("superseded", 409)


async def test_whoever_catches_it_is_stopped_all_the_same(
    gateway: MisbehavingGateway, environment: Environment, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure_agent._session._SUPERSEDED_GRACE", 0.05)
    gateway.faults.append(SUPERSEDED)
    went_on = []

    async def main() -> None:
        async with connect(environment, options=options) as agent:
            while True:
                try:
                    await agent.checkpoint(b"x")
                except Exception:
                    went_on.append(1)
                await asyncio.sleep(0.01)

    with pytest.raises(Superseded):
        async with asyncio.timeout(10):
            await main()
    assert went_on
    # Nothing was sent any more.
    assert gateway.requests == ["PUT /checkpoints"]


@pytest.mark.parametrize("how", ["checkpoint", "progress", "restore"])
async def test_after_the_first_no_call_is_made(
    gateway: MisbehavingGateway, environment: Environment, options: Options, how: str
) -> None:
    async def main() -> None:
        async with connect(environment, options=options) as agent:
            gateway.faults.append(SUPERSEDED)
            first = {
                "checkpoint": lambda: agent.checkpoint(b"x"),
                "progress": lambda: agent.progress(1),
                "restore": agent.restore,
            }[how]
            for again in (
                first,
                lambda: agent.checkpoint(b"y"),
                lambda: agent.checkpoint_soon(b"y"),
                agent.flush,
                agent.restore,
                agent.checkpoints,
                lambda: agent.progress(2),
                lambda: agent.result(1),
            ):
                with pytest.raises(Superseded, match="detail of superseded"):
                    await again()

    with pytest.raises(Superseded):
        await main()
    assert len(gateway.requests) == 1
    # Nothing is left behind that could be taken for a result.
    assert environment.termination_log.read_text() == ""


async def test_the_end_of_the_body_does_not_hide_it(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(SUPERSEDED)

    async def main() -> None:
        async with connect(environment, options=options) as agent:
            with contextlib.suppress(Superseded):
                await agent.progress(5)

    with pytest.raises(Superseded):
        await main()


async def test_after_its_own_result_a_closed_attempt_is_not_superseded(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    async with connect(environment, options=options) as agent:
        await agent.result(1)
        gateway.faults.append(SUPERSEDED)
        with pytest.raises(Superseded):
            await agent.progress(100)
    assert environment.termination_log.read_text() == "1"
