"""A superseded attempt stops, whatever its own code does with the exception."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.unit.sdk.records import refuse, sent

from perdure_agent import Superseded, testing

#: Answers one request alone, so that no heartbeat comes first.
SUPERSEDED = refuse("superseded", 409)


async def test_an_agent_that_catches_the_exception_is_stopped_all_the_same(
    gateway: testing.Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure_agent._session._SUPERSEDED_GRACE", 0.05)
    gateway.script(SUPERSEDED)
    went_on = []

    async def main() -> None:
        async with gateway.connect() as agent:
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
    # No request followed.
    assert sent(gateway) == ["PUT /checkpoints"]


@pytest.mark.parametrize("how", ["checkpoint", "progress", "restore"])
async def test_after_the_first_refusal_no_call_is_sent(gateway: testing.Gateway, how: str) -> None:
    async def main() -> None:
        async with gateway.connect() as agent:
            gateway.script(SUPERSEDED)
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
    assert len(sent(gateway)) == 1
    # The termination message holds no text that could count as a result.
    assert gateway.termination_message == ""


async def test_the_end_of_the_body_does_not_hide_the_exception(gateway: testing.Gateway) -> None:
    gateway.script(SUPERSEDED)

    async def main() -> None:
        async with gateway.connect() as agent:
            with contextlib.suppress(Superseded):
                await agent.progress(5)

    with pytest.raises(Superseded):
        await main()


async def test_after_its_own_result_a_closed_attempt_is_not_superseded(gateway: testing.Gateway) -> None:
    async with gateway.connect() as agent:
        await agent.result(1)
        gateway.script(SUPERSEDED)
        with pytest.raises(Superseded):
            await agent.progress(100)
    assert gateway.termination_message == "1"
