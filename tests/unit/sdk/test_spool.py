"""Checkpoints in the spool, while the gateway is away and when it is back."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.sdk.records import orders, refuse, saved, sent

from perdure_agent import GatewayError, GatewayUnavailable, Options, Retries, Superseded, testing


async def test_only_the_newest_arrives_when_the_gateway_is_back(gateway: testing.Gateway) -> None:
    async with gateway.connect() as agent:
        with gateway.away():
            for number in range(5):
                await agent.checkpoint_soon(number, label=str(number))
                asked = len(sent(gateway))
                await gateway.until(lambda asked=asked: len(sent(gateway)) > asked)  # type: ignore[misc]
        await agent.flush()
        (kept,) = gateway.checkpoints
        assert (kept.data, kept.content_type, kept.label) == (b"4", "application/json", "4")
        await agent.flush()
        await agent.checkpoint_soon(b"5", recoverable=False)
        await agent.flush()
    assert saved(gateway) == [b"4", b"5"]
    assert gateway.checkpoints[1].recoverable is False


async def test_a_checkpoint_that_is_waited_for_replaces_older_ones(gateway: testing.Gateway) -> None:
    async with gateway.connect() as agent:
        with gateway.away():
            await agent.checkpoint_soon(b"older")
            await gateway.until(lambda: "PUT /checkpoints" in sent(gateway))
            saving = asyncio.create_task(agent.checkpoint(b"newer"))
            await asyncio.sleep(0)
        await saving
        await agent.flush()
    # The older checkpoint may have been dropped; if it arrived, then before the newer.
    assert saved(gateway)[-1] == b"newer"
    assert orders(gateway) == sorted(orders(gateway))


async def test_leaving_the_context_flushes_the_spool(gateway: testing.Gateway) -> None:
    gateway.script(testing.Unreachable(), on="checkpoint", times=3)
    async with gateway.connect() as agent:
        await agent.checkpoint_soon(b"last")
    assert saved(gateway) == [b"last"]


async def test_a_failure_waits_for_the_spool_and_a_result_does_not(gateway: testing.Gateway) -> None:
    async def crash() -> None:
        async with gateway.connect() as agent:
            await agent.checkpoint_soon(b"before the crash")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await crash()
    assert sent(gateway) == ["PUT /checkpoints", "POST /failure"]
    async with gateway.connect() as agent:
        with gateway.away():
            await agent.checkpoint_soon(b"needless")
            asked = len(sent(gateway))
            await gateway.until(lambda: len(sent(gateway)) > asked)
            reporting = asyncio.create_task(agent.result(1))
            await gateway.until(lambda: "POST /result" in sent(gateway))
        await reporting
    assert gateway.reports[-1] == testing.Success(attempt=2, output=1)


async def test_a_cancelled_body_still_sends_its_spooled_checkpoint(gateway: testing.Gateway) -> None:
    ready = asyncio.Event()

    async def main() -> None:
        async with gateway.connect() as agent:
            await agent.checkpoint_soon(b"last words")
            ready.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(main())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert saved(gateway) == [b"last words"]


async def test_a_flush_ends_with_the_patience(gateway: testing.Gateway) -> None:
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    with gateway.away():
        with pytest.raises(GatewayUnavailable, match="newest checkpoint"):
            async with gateway.connect(options=impatient) as agent:
                await agent.checkpoint_soon(b"x")
        assert not saved(gateway)
    assert gateway.clock.now == pytest.approx(0.05)


async def test_a_refusal_is_raised_at_the_next_call(gateway: testing.Gateway) -> None:
    gateway.script(refuse("invalid-field", 422))
    async with gateway.connect() as agent:
        await agent.checkpoint_soon(b"x", label="wrong")
        await gateway.until(lambda: bool(sent(gateway)))
        with pytest.raises(GatewayError, match="invalid-field"):
            await agent.flush()
        await agent.checkpoint_soon(b"y")
    assert saved(gateway) == [b"y"]


async def test_a_checkpoint_that_another_program_has_overtaken_counts_as_sent(
    gateway: testing.Gateway,
) -> None:
    gateway.script(refuse("checkpoint-overtaken", 409))
    async with gateway.connect() as agent:
        await agent.checkpoint_soon(b"x")
        await agent.flush()
    assert sent(gateway) == ["PUT /checkpoints"]


async def test_an_overtaken_checkpoint_that_is_waited_for_is_an_error(gateway: testing.Gateway) -> None:
    gateway.script(refuse("checkpoint-overtaken", 409))
    async with gateway.connect() as agent:
        with pytest.raises(GatewayError, match="checkpoint-overtaken"):
            await agent.checkpoint(b"x")


async def test_a_superseded_attempt_is_stopped_by_its_spool(gateway: testing.Gateway) -> None:
    gateway.script(refuse("superseded", 409))

    async def main() -> None:
        async with gateway.connect() as agent:
            await agent.checkpoint_soon(b"x")
            await asyncio.sleep(30)

    with pytest.raises(Superseded):
        await main()
    assert sent(gateway) == ["PUT /checkpoints"]
