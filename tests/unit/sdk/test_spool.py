"""Checkpoints that nobody waits for, while the gateway is away and when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.unit.sdk.misbehaving import MisbehavingGateway, drop, refuse

from perdure_agent import Environment, GatewayError, GatewayUnavailable, Options, Retries, Superseded, connect


@contextmanager
def away(gateway: MisbehavingGateway) -> Iterator[None]:
    """Nothing gets through."""
    gateway.faults.extend([drop] * 100_000)
    gateway.heartbeat_fault = drop
    yield
    gateway.faults.clear()
    gateway.heartbeat_fault = None


def saved(gateway: MisbehavingGateway) -> list[bytes]:
    return [data for data, _, _ in gateway.checkpoints]


async def test_only_the_newest_arrives_when_the_gateway_is_back(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    async with connect(environment, options=options) as agent:
        with away(gateway):
            for number in range(5):
                await agent.checkpoint_soon(number, label=str(number))
                asked = len(gateway.requests)
                await gateway.until(lambda asked=asked: len(gateway.requests) > asked)  # type: ignore[misc]
        await agent.flush()
        assert gateway.checkpoints == [(b"4", "application/json", "4")]
        await agent.flush()
        await agent.checkpoint_soon(b"5", recoverable=False)
        await agent.flush()
    assert saved(gateway) == [b"4", b"5"]
    assert gateway.headers[1]["Perdure-Recoverable"] == "false"


async def test_one_that_is_waited_for_takes_the_place_of_older_ones(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    async with connect(environment, options=options) as agent:
        with away(gateway):
            await agent.checkpoint_soon(b"older")
            await gateway.until(lambda: "PUT /checkpoints" in gateway.requests)
            saving = asyncio.create_task(agent.checkpoint(b"newer"))
            await asyncio.sleep(0)
        await saving
        await agent.flush()
    # If the older one arrived at all, then before the newer.
    assert saved(gateway)[-1] == b"newer"
    orders = [int(headers["Perdure-Order"]) for headers in gateway.headers]
    assert orders == sorted(orders)


async def test_leaving_waits_for_it(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.extend([drop] * 3)
    async with connect(environment, options=options) as agent:
        await agent.checkpoint_soon(b"last")
    assert saved(gateway) == [b"last"]


async def test_a_failure_waits_for_it_and_a_result_does_not(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    async def crash() -> None:
        async with connect(environment, options=options) as agent:
            await agent.checkpoint_soon(b"before the crash")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await crash()
    assert gateway.requests == ["PUT /checkpoints", "POST /failure"]
    async with connect(environment, options=options) as agent:
        with away(gateway):
            await agent.checkpoint_soon(b"needless")
            asked = len(gateway.requests)
            await gateway.until(lambda: len(gateway.requests) > asked)
            reporting = asyncio.create_task(agent.result(1))
            await gateway.until(lambda: "POST /result" in gateway.requests)
        await reporting
    assert gateway.reports[-1] == ("result", 1)


async def test_a_cancelled_body_still_sends_it(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    ready = asyncio.Event()

    async def main() -> None:
        async with connect(environment, options=options) as agent:
            await agent.checkpoint_soon(b"last words")
            ready.set()
            await asyncio.sleep(30)

    task = asyncio.create_task(main())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert saved(gateway) == [b"last words"]


async def test_waiting_for_it_ends_with_the_patience(
    gateway: MisbehavingGateway, environment: Environment
) -> None:
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    with away(gateway):
        with pytest.raises(GatewayUnavailable, match="newest checkpoint"):
            async with connect(environment, options=impatient) as agent:
                await agent.checkpoint_soon(b"x")
        assert not saved(gateway)


async def test_a_refusal_is_told_at_the_next_call(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("invalid-field", 422))
    async with connect(environment, options=options) as agent:
        await agent.checkpoint_soon(b"x", label="wrong")
        await gateway.until(lambda: bool(gateway.requests))
        with pytest.raises(GatewayError, match="invalid-field"):
            await agent.flush()
        await agent.checkpoint_soon(b"y")
    assert saved(gateway) == [b"y"]


async def test_one_that_another_program_has_overtaken_is_as_good_as_sent(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("checkpoint-overtaken", 409))
    async with connect(environment, options=options) as agent:
        await agent.checkpoint_soon(b"x")
        await agent.flush()
    assert gateway.requests == ["PUT /checkpoints"]


async def test_its_own_conflict_is_an_error(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("checkpoint-overtaken", 409))
    async with connect(environment, options=options) as agent:
        with pytest.raises(GatewayError, match="checkpoint-overtaken"):
            await agent.checkpoint(b"x")


async def test_a_superseded_attempt_learns_it_from_its_spool(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("superseded", 409))

    async def main() -> None:
        async with connect(environment, options=options) as agent:
            await agent.checkpoint_soon(b"x")
            await asyncio.sleep(30)

    with pytest.raises(Superseded):
        await main()
    assert gateway.requests == ["PUT /checkpoints"]
