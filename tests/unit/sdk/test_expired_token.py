"""An expired token is waited out: the kubelet renews the file once the API server is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from tests.unit.sdk.records import refuse, sent

from perdure_agent import Agent, GatewayError, GatewayUnavailable, Options, Retries, connect, testing
from perdure_agent._transport import TOKEN_PATIENCE

Call = Callable[[Agent], Awaitable[object]]
#: Each call with consequences.
CALLS: dict[str, Call] = {
    "checkpoint": lambda agent: agent.checkpoint(b"x"),
    "restore": lambda agent: agent.restore(),
    "checkpoints": lambda agent: agent.checkpoints(),
    "result": lambda agent: agent.result("x" * 5000),
    "failure": lambda agent: agent.failure("no"),
}


@pytest.mark.parametrize("route", CALLS)
async def test_each_call_waits_for_the_kubelet(gateway: testing.Gateway, route: str) -> None:
    async with gateway.connect() as agent:
        gateway.script(testing.ExpiredToken(renewed=False), on=route)  # type: ignore[arg-type]
        calling = asyncio.ensure_future(CALLS[route](agent))
        await gateway.until(lambda: gateway.clock.now > 1800)
        assert not calling.done()
        gateway.renew_token()
        await calling
    statuses = [request.status for request in gateway.requests if request.route == route]
    assert set(statuses[:-1]) == {401}
    assert statuses[-1] in (200, 201, 204, 404)


async def test_the_gateway_s_retry_after_is_obeyed(gateway: testing.Gateway) -> None:
    async with gateway.connect(options=Options(retries=Retries(longest_delay=0.5))) as agent:
        gateway.script(testing.ExpiredToken(renewed=False), on="checkpoint")
        saving = asyncio.create_task(agent.checkpoint(b"x"))
        await gateway.until(lambda: gateway.clock.now > 60)
        gateway.renew_token()
        await saving
    times = [request.at for request in gateway.requests if request.route == "checkpoint"]
    assert {after - before for before, after in pairwise(times)} == {5}


async def test_a_token_that_was_renewed_at_the_same_moment_is_used_at_once(gateway: testing.Gateway) -> None:
    async with gateway.connect() as agent:
        gateway.script(testing.ExpiredToken(), on="checkpoint")
        assert await agent.checkpoint(b"x") == 1
    assert gateway.clock.now == 0
    assert sent(gateway) == ["PUT /checkpoints"] * 2


@pytest.mark.parametrize("patience", [None, 10 * TOKEN_PATIENCE])
async def test_a_token_that_stays_expired_ends_the_attempt_without_a_failure(
    gateway: testing.Gateway, patience: float | None
) -> None:
    async def main() -> None:
        async with gateway.connect(options=Options(retries=Retries(patience=patience))) as agent:
            gateway.script(testing.ExpiredToken(renewed=False), on="checkpoint")
            await agent.checkpoint(b"x")

    with pytest.raises(GatewayUnavailable, match="401 The token has expired"):
        await main()
    last = max(request.at for request in gateway.requests if request.route == "checkpoint")
    # The next try would have been later than the patience allows.
    assert TOKEN_PATIENCE - 60 < last < TOKEN_PATIENCE
    assert gateway.reports == []


async def test_a_token_may_stay_expired_for_almost_an_hour(gateway: testing.Gateway) -> None:
    async with gateway.connect(options=Options(retries=Retries(patience=None))) as agent:
        gateway.script(testing.ExpiredToken(renewed=False), on="checkpoint")
        saving = asyncio.create_task(agent.checkpoint(b"x"))
        await gateway.until(lambda: gateway.clock.now > TOKEN_PATIENCE - 30)
        gateway.renew_token()
        assert await saving == 1


async def test_the_exit_code_asks_for_another_attempt(gateway: testing.Gateway) -> None:
    async def main() -> None:
        async with connect() as agent:
            gateway.script(testing.ExpiredToken(renewed=False), on="checkpoint")
            await agent.checkpoint(b"x")

    assert await gateway.run(main) == 75


@pytest.mark.parametrize("kind", ["unauthenticated", "forbidden-by-a-proxy", ""])
async def test_every_other_refusal_with_401_fails_soon(gateway: testing.Gateway, kind: str) -> None:
    async with gateway.connect() as agent:
        gateway.script(refuse(kind, 401), on="checkpoint", times=2)
        with pytest.raises(GatewayError) as caught:
            await agent.checkpoint(b"x")
        assert caught.value.status == 401
        assert gateway.clock.now == 0
        # The agent itself goes on.
        assert await agent.checkpoint(b"x") == 1


async def test_heartbeats_wait_as_well(gateway: testing.Gateway) -> None:
    async with gateway.connect():
        await gateway.clock.advance(5)
        gateway.script(testing.ExpiredToken(renewed=False), on="heartbeat")
        await gateway.clock.advance(600)
        assert gateway.heartbeats == [0]
        gateway.renew_token()
        await gateway.clock.advance(5)
        assert gateway.heartbeats[1:]
