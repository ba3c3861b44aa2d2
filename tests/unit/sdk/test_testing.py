"""`perdure_agent.testing` from the side of an agent's developer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress

import pytest

import perdure_agent
from perdure_agent import (
    Agent,
    AgentFailure,
    DamagedCheckpoint,
    GatewayError,
    GatewayUnavailable,
    LastFailure,
    Options,
    Retries,
    Superseded,
    testing,
)


async def count(agent: Agent) -> None:
    """Count to the input's `to`, with a checkpoint after each number."""
    saved = await agent.restore()
    done = saved.json() if saved else 0
    for number in range(done + 1, agent.input["to"] + 1):
        await agent.progress(100 * number / agent.input["to"], f"number {number}")
        await agent.checkpoint(number, label=str(number))
    await agent.result({"counted": agent.input["to"]})


async def main() -> None:
    async with perdure_agent.connect() as agent:
        await count(agent)


async def test_an_attempt_leaves_records_of_everything_it_reported() -> None:
    async with testing.Gateway(input={"to": 2}, model="large-2", workflow="sum", index=3) as gateway:
        async with gateway.connect() as agent:
            assert (agent.input, agent.attempt, agent.model) == ({"to": 2}, 1, "large-2")
            assert (agent.workflow, agent.task) == ("sum", "sum-step-3-abcde")
            assert agent.last_failure is None
            await count(agent)
        assert gateway.output == {"counted": 2}
        assert gateway.outcome == testing.Success(attempt=1, output={"counted": 2})
        assert gateway.termination_message == '{"counted":2}'
        assert [(kept.sequence, kept.label, kept.json()) for kept in gateway.checkpoints] == [
            (1, "1", 1),
            (2, "2", 2),
        ]
        assert [report.percent for report in gateway.progress] == [50, 100]
        assert gateway.restored == []


async def test_given_checkpoints_are_restored() -> None:
    given = [b"\x00", testing.Saved(data={"n": 1}, label="a"), testing.Saved(data=2, recoverable=False)]
    async with testing.Gateway(checkpoints=given) as gateway, gateway.connect() as agent:
        saved = await agent.restore()
        assert saved is not None
        assert (saved.sequence, saved.label, saved.json()) == (2, "a", {"n": 1})
        listed = await agent.checkpoints()
        assert [(info.sequence, info.recoverable) for info in listed] == [(3, False), (2, True), (1, True)]
        assert gateway.restored == [(1, 2)]
        assert await agent.checkpoint(b"next") == 4


async def test_main_runs_to_an_exit_code_without_an_environment() -> None:
    async with testing.Gateway(input={"to": 3}) as gateway:
        assert await gateway.run(main) == 0
        assert gateway.output == {"counted": 3}
        with pytest.raises(RuntimeError, match="the task has ended"):
            await gateway.run(main)
    assert "PERDURE_GATEWAY_URL" not in os.environ


@pytest.mark.parametrize("committed", [False, True])
async def test_a_killed_pod_is_followed_by_an_attempt_that_goes_on(committed: bool) -> None:
    async with testing.Gateway(input={"to": 4}) as gateway:
        gateway.script(testing.Kill(committed=committed), on="checkpoint", at=3)
        assert await gateway.run(main) == 137
        assert gateway.outcome == testing.Failure(
            attempt=1, reason="Disrupted", message="the pod was killed", retryable=True, exit_code=137
        )
        assert await gateway.run(main) == 0
        newest = 3 if committed else 2
        assert gateway.restored == [(2, newest)]
        assert [(kept.sequence, kept.attempt) for kept in gateway.checkpoints] == [
            (number, 1 if number <= newest else 2) for number in range(1, 5)
        ]


async def outliving(agent: Agent) -> None:
    """Ignores every exception, and saves all the same."""
    try:
        await agent.progress(1)
    except Exception:
        raise AssertionError("the agent outlived its pod") from None
    finally:
        with suppress(testing.Killed):
            await agent.checkpoint(b"too late")


async def test_a_killed_pod_sends_nothing_any_more() -> None:
    async with testing.Gateway() as gateway:
        gateway.script(testing.Kill(), on="progress")
        with pytest.raises(testing.Killed):
            async with gateway.connect() as agent:
                await outliving(agent)
        assert gateway.checkpoints == []
        async with gateway.connect() as agent:
            assert agent.attempt == 2
            assert agent.last_failure == LastFailure(
                attempt=1, reason="Disrupted", message="the pod was killed", exit_code=137
            )


async def test_a_kill_does_not_hide_a_failed_assertion() -> None:
    async with testing.Gateway() as gateway:
        gateway.script(testing.Kill(), on="progress")
        with pytest.raises(AssertionError, match="of the test's own"):
            async with gateway.connect() as agent:
                await failing_after(agent)


async def failing_after(agent: Agent) -> None:
    with suppress(testing.Killed):
        await agent.progress(1)
    raise AssertionError("of the test's own")


async def idle(gateway: testing.Gateway, seconds: float) -> None:
    """Let the time pass, and wait for ever."""
    await gateway.clock.advance(seconds)
    await asyncio.Event().wait()


async def test_a_pod_that_is_killed_at_a_heartbeat_ends() -> None:
    async with testing.Gateway() as gateway:
        gateway.script(testing.Kill(), on="heartbeat", at=2)
        with pytest.raises(testing.Killed):
            async with gateway.connect():
                await idle(gateway, 10)
        assert len(gateway.heartbeats) == 1


async def test_an_absence_costs_virtual_time_only() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        gateway.script(testing.Unavailable(retry_after=30), on="checkpoint", times=10)
        assert await agent.checkpoint(b"x") == 1
        assert gateway.clock.now == pytest.approx(300)
        # Heartbeats went on meanwhile: one at the start, and then every ten seconds.
        assert gateway.heartbeats[:4] == [0, 10, 20, 30]
        assert [request.status for request in gateway.requests if request.route == "checkpoint"] == [
            *[503] * 10,
            201,
        ]


async def test_an_absence_longer_than_the_agents_patience_ends_in_exit_75() -> None:
    async with testing.Gateway(input={"to": 1}) as gateway:
        gateway.script(testing.Unreachable(), on="checkpoint", times=None)
        assert await gateway.run(main) == 75
        assert 3500 < gateway.clock.now <= 3600
        assert isinstance(gateway.outcome, testing.Failure)
        assert (gateway.outcome.reason, gateway.outcome.retryable) == ("Disrupted", True)
        gateway.clear_script()
        assert await gateway.run(main) == 0


async def test_a_patience_without_end_under_a_fault_without_end_is_an_error() -> None:
    patient = Options(retries=Retries(patience=None, longest_delay=86_400), heartbeat_interval=86_400)
    async with testing.Gateway() as gateway:
        gateway.script(testing.Unreachable(), on="checkpoint", times=None)
        with pytest.raises(RuntimeError, match="a year of virtual time"):
            async with gateway.connect(options=patient) as agent:
                await agent.checkpoint(b"x")


async def test_retry_after_of_429_is_obeyed() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        gateway.script(testing.TooManyRequests(retry_after=7))
        await agent.checkpoint(b"x")
        assert gateway.clock.now == 7


async def test_a_lost_answer_leaves_one_checkpoint_and_one_result() -> None:
    async with testing.Gateway() as gateway:
        async with gateway.connect() as agent:
            gateway.script(testing.LostAnswer(), on="checkpoint")
            gateway.script(testing.LostAnswer(), on="result")
            assert await agent.checkpoint(b"x") == 1
            await agent.result("done")
        assert [kept.data for kept in gateway.checkpoints] == [b"x"]
        sent = [request for request in gateway.requests if request.route in ("checkpoint", "result")]
        assert [request.status for request in sent] == [None, 201, None, 204]
        assert gateway.output == "done"


async def test_a_slow_answer_within_the_timeout_arrives_and_a_later_one_is_tried_again() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        gateway.script(testing.Slow(20), on="checkpoint")
        assert await agent.checkpoint(b"x") == 1
        assert gateway.clock.now == 20
        gateway.script(testing.Slow(40), on="checkpoint")
        assert await agent.checkpoint(b"y") == 2
        assert 50 < gateway.clock.now < 51
        assert [request.status for request in gateway.requests if request.route == "checkpoint"] == [
            201,
            None,
            201,
        ]


async def test_a_takeover_at_the_second_checkpoint_exits_76() -> None:
    async with testing.Gateway(input={"to": 5}) as gateway:
        gateway.script(testing.Takeover(), on="checkpoint", at=2)
        assert await gateway.run(main) == 76
        assert [kept.data for kept in gateway.checkpoints] == [b"1"]
        assert gateway.outcome is None


async def test_a_takeover_reaches_an_idle_agent_with_its_next_heartbeat() -> None:
    async def taken_over(gateway: testing.Gateway) -> None:
        async with gateway.connect():
            await gateway.clock.advance(1)
            gateway.take_over()
            await idle(gateway, 10)

    async with testing.Gateway() as gateway:
        with pytest.raises(Superseded):
            await taken_over(gateway)
        assert [request.status for request in gateway.requests] == [204, 409]


async def test_the_next_attempt_closes_the_one_before() -> None:
    async def both(gateway: testing.Gateway) -> None:
        async with gateway.connect() as first, gateway.connect() as second:
            await second.checkpoint(b"second")
            await first.checkpoint(b"first")

    async with testing.Gateway() as gateway:
        with pytest.raises(Superseded):
            await both(gateway)
        assert [(kept.attempt, kept.data) for kept in gateway.checkpoints] == [(2, b"second")]


async def test_an_expired_token_is_waited_out_until_the_test_renews_it() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        gateway.script(testing.ExpiredToken(renewed=False), on="checkpoint")
        saving = asyncio.create_task(agent.checkpoint(b"y"))
        await gateway.until(lambda: gateway.clock.now > 600)
        assert not saving.done()
        gateway.renew_token()
        assert await saving == 1
        assert gateway.clock.now < 660


async def test_a_refusal_names_its_kind() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        gateway.script(testing.Refusal("too-large", 413, "checkpoint: at most 1 byte"))
        with pytest.raises(GatewayError, match="checkpoint: at most 1 byte") as caught:
            await agent.checkpoint(b"x")
        assert (caught.value.status, caught.value.kind) == (413, "too-large")


async def test_a_function_chooses_the_fault_of_each_request() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:

        def every_second(request: testing.RecordedRequest) -> testing.Fault | None:
            return testing.Unreachable() if len(gateway.requests) % 2 else None

        gateway.script(every_second, on="checkpoint", times=None)
        for number in range(3):
            await agent.checkpoint(number)
        statuses = [request.status for request in gateway.requests if request.route == "checkpoint"]
        assert statuses.count(None) >= 1
        assert statuses.count(201) == 3


@pytest.mark.parametrize("in_transit", [False, True])
async def test_a_damaged_checkpoint_is_passed_over_on_request(in_transit: bool) -> None:
    async with testing.Gateway(checkpoints=[b"sound", b"damaged"]) as gateway, gateway.connect() as agent:
        gateway.damage(2, in_transit=in_transit)
        with pytest.raises(DamagedCheckpoint):
            await agent.restore()
        saved = await agent.restore(fallback=True)
        assert saved is not None
        assert (saved.data, saved.skipped) == (b"sound", (2,))


async def test_sigterm_lets_main_save_and_the_next_attempt_finds_it() -> None:
    async def interruptible() -> None:
        async with perdure_agent.connect() as agent:
            if await agent.restore() is None:
                try:
                    gateway.interrupt()
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await agent.checkpoint(b"last words")
                    raise
            await agent.result("went on")

    async with testing.Gateway() as gateway:
        with pytest.raises(RuntimeError, match="no main coroutine"):
            gateway.interrupt()
        assert await gateway.run(interruptible) == 75
        assert gateway.latest is not None
        assert gateway.latest.data == b"last words"
        assert await gateway.run(interruptible) == 0
        assert (gateway.attempt, gateway.output) == (2, "went on")


async def test_a_failure_reaches_the_next_attempt_unless_it_is_final() -> None:
    async def failing() -> None:
        async with perdure_agent.connect() as agent:
            raise AgentFailure(f"attempt {agent.attempt}", retryable=agent.last_failure is None)

    async with testing.Gateway() as gateway:
        assert await gateway.run(failing) == 1
        assert await gateway.run(failing) == 1
        assert gateway.outcome == testing.Failure(
            attempt=2, reason="AgentFailure", message="attempt 2", retryable=False, exit_code=1
        )
        with pytest.raises(AssertionError, match="has not succeeded"):
            _ = gateway.output
        with pytest.raises(RuntimeError, match="the task has ended"):
            await gateway.run(failing)


async def test_a_given_last_failure_counts_the_attempts() -> None:
    failure = LastFailure(attempt=4, reason="OOMKilled", message="", exit_code=137)
    async with testing.Gateway(last_failure=failure) as gateway, gateway.connect() as agent:
        assert (agent.attempt, agent.last_failure) == (5, failure)


@pytest.mark.parametrize(
    ("body", "code"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('no')", 1), ("raise ValueError", 1)]
)
async def test_exit_codes_of_main_s_own(body: str, code: int) -> None:
    async def leaving() -> None:
        exec(body, {"sys": sys})

    async with testing.Gateway() as gateway:
        assert await gateway.run(leaving) == code


async def test_exit_code_0_alone_is_a_success_without_output() -> None:
    async def silent() -> None:
        async with perdure_agent.connect():
            pass

    async with testing.Gateway() as gateway:
        assert await gateway.run(silent) == 0
        assert gateway.outcome == testing.Success(attempt=1, output=None)
        assert gateway.reports == []


async def test_a_result_survives_in_the_termination_message() -> None:
    async with testing.Gateway(input={"to": 1}) as gateway:
        gateway.script(testing.Unreachable(), on="result", times=None)
        assert await gateway.run(main) == 0
        assert gateway.outcome == testing.Success(attempt=1, output={"counted": 1})
        assert gateway.clock.now <= 300


async def test_a_large_input_is_asked_for() -> None:
    large = {"text": "x" * 70_000}
    async with testing.Gateway(input=large) as gateway, gateway.connect() as agent:
        assert agent.input == large
        assert [request.route for request in gateway.requests] == ["input"]


async def test_progress_waits_for_the_gateway_without_the_agent() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        with gateway.away():
            await agent.progress(1)
            await agent.progress(2)
            assert gateway.progress == []
        await gateway.until(lambda: bool(gateway.progress))
        assert [report.percent for report in gateway.progress] == [2]


async def test_a_spooled_checkpoint_is_flushed_in_virtual_time() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        gateway.script(testing.Unreachable(), on="checkpoint", times=5)
        for number in range(3):
            await agent.checkpoint_soon(number)
        await agent.flush()
        assert [kept.json() for kept in gateway.checkpoints] == [2]
        with gateway.away():
            await agent.checkpoint_soon(b"never")
            with pytest.raises(GatewayUnavailable):
                await agent.flush()
        assert gateway.clock.now > 3600


async def test_a_call_waits_behind_a_slow_spooled_one_without_a_deadlock() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        gateway.script(testing.Slow(5), on="checkpoint")
        await agent.checkpoint_soon(b"spooled")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await agent.checkpoint(b"awaited")
        assert [kept.data for kept in gateway.checkpoints][-1] == b"awaited"


async def test_the_same_script_gives_the_same_requests() -> None:
    async def recorded(seed: int) -> list[testing.RecordedRequest]:
        async with testing.Gateway(input={"to": 5}, seed=seed) as gateway:
            gateway.script(testing.Unreachable(), at=2, times=4)
            gateway.script(testing.LostAnswer(), on="checkpoint", at=3)
            gateway.script(testing.Kill(), on="checkpoint", at=5)
            assert await gateway.run(main) == 137
            assert await gateway.run(main) == 0
            return gateway.requests

    first = await recorded(1)
    assert first == await recorded(1)
    assert [request.at for request in first] != [request.at for request in await recorded(2)]


async def test_a_process_of_its_own_talks_to_it_over_http() -> None:
    program = """
import perdure_agent
async def main():
    async with perdure_agent.connect() as agent:
        saved = await agent.restore()
        await agent.checkpoint(b"second")
        await agent.result([agent.input, agent.attempt, saved.json()])
perdure_agent.run(main)
"""
    async with testing.Gateway(input={"n": 1}, checkpoints=["first"]) as gateway:
        gateway.script(testing.LostAnswer(), on="result")
        async with gateway.serve() as variables:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, env={"PATH": "", **variables}
            )
            async with asyncio.timeout(30):
                assert await process.wait() == 0
        assert gateway.output == [{"n": 1}, 1, "first"]
        assert gateway.latest is not None
        assert gateway.latest.data == b"second"


async def test_misuse_is_named() -> None:
    with pytest.raises(TypeError, match="input cannot be written as JSON"):
        testing.Gateway(input={1, 2})
    gateway = testing.Gateway()
    with pytest.raises(RuntimeError, match="is not open"):
        await gateway.run(main)
    async with gateway:
        with pytest.raises(RuntimeError, match="no attempt has started"):
            gateway.take_over()
        with pytest.raises(ValueError, match="count from 1"):
            gateway.script(testing.Unreachable(), at=0)
        with pytest.raises(ValueError, match=r"on is 'save'; it must be one of: input, checkpoint, "):
            gateway.script(testing.Unreachable(), on="save")  # type: ignore[arg-type]


async def test_a_fault_that_no_request_has_met_is_listed() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        late = testing.Unavailable()
        gateway.script(testing.LostAnswer(), on="checkpoint")
        gateway.script(late, on="checkpoint", at=4)
        await agent.checkpoint(b"x")
        assert gateway.unmet_faults == [late]
        await agent.checkpoint(b"y")
        await agent.checkpoint(b"z")
        assert gateway.unmet_faults == []


def test_the_package_needs_no_test_framework_and_agents_do_not_load_it() -> None:
    program = (
        "import sys, perdure_agent\n"
        "assert 'perdure_agent.testing' not in sys.modules\n"
        "import perdure_agent.testing\n"
        "assert not {'pytest', 'perdure', 'starlette'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
