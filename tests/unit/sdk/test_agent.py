"""The agent's handle against a gateway that is away, slow or wrong, or that refuses; over HTTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from tests.unit.sdk.records import orders, refuse, saved, sent

from perdure_agent import (
    AgentError,
    AgentFailure,
    DamagedCheckpoint,
    Environment,
    GatewayError,
    GatewayUnavailable,
    LastFailure,
    Options,
    Retries,
    Superseded,
    connect,
    testing,
)
from perdure_agent.testing._pod import token

UNAVAILABLE = testing.Unavailable(retry_after=0)
SUPERSEDED = refuse("superseded", 409)


def reported_failure(message: str, *, retryable: bool) -> testing.Failure:
    return testing.Failure(attempt=1, reason="AgentFailure", message=message, retryable=retryable)


async def test_an_agent_knows_its_task(environment: Environment, options: Options) -> None:
    async with connect(environment, options=options) as agent:
        assert agent.input == {"files": ["a.py"]}
        assert (agent.step, agent.attempt, agent.task) == ("analyse", 2, "audit-analyse-0-abcde")
        assert (agent.model, agent.last_failure) == (None, None)


async def test_an_agent_knows_its_model_and_the_last_failure(
    environment: Environment, options: Options
) -> None:
    failure = LastFailure(attempt=1, reason="ExitCode", message="no such file", exit_code=2)
    described = replace(environment, model="large-2", last_failure=failure)
    async with connect(described, options=options) as agent:
        assert (agent.model, agent.last_failure) == ("large-2", failure)


@pytest.mark.parametrize("content", [None, "", "\n"])
async def test_an_input_that_is_not_mounted_is_requested(
    gateway: testing.Gateway, environment: Environment, options: Options, content: str | None
) -> None:
    assert environment.input_file is not None
    environment.input_file.unlink()
    if content is not None:
        environment.input_file.write_text(content)
    async with connect(environment, options=options) as agent:
        assert agent.input == {"files": ["a.py"]}
    assert sent(gateway) == ["GET /task"]


async def test_an_input_that_is_not_json_is_named(environment: Environment, options: Options) -> None:
    assert environment.input_file is not None
    environment.input_file.write_text("{")
    with pytest.raises(ValueError, match=r"input\.json is not JSON"):
        async with connect(environment, options=options):
            pass


async def test_checkpoint_and_restore(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    async with connect(environment, options=options) as agent:
        assert await agent.restore() is None
        assert await agent.checkpoint(b"\x00\xff") == 1
        assert await agent.checkpoint({"done": ["ä"]}, label="Prüfung 1/2 & more") == 2
        found = await agent.restore()
    first, second = gateway.checkpoints
    assert (first.data, first.content_type, first.label) == (b"\x00\xff", "application/octet-stream", None)
    assert (second.data, second.content_type) == ('{"done":["ä"]}'.encode(), "application/json")
    assert found is not None
    assert (found.sequence, found.label) == (2, "Prüfung 1/2 & more")
    assert found.json() == {"done": ["ä"]}


async def test_a_large_checkpoint_survives_a_retry_whole(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    data = bytes(range(256)) * 4096 * 5
    gateway.script(UNAVAILABLE)
    gateway.script(testing.Unreachable())
    async with connect(environment, options=options) as agent:
        await agent.checkpoint(data)
    assert saved(gateway) == [data]


@pytest.mark.parametrize(
    "fault",
    [
        UNAVAILABLE,
        testing.Unreachable(),
        refuse("internal", 500),
        refuse("busy", 429),
        testing.TooManyRequests(retry_after=0),
    ],
)
async def test_a_call_is_repeated_while_the_gateway_fails(
    gateway: testing.Gateway, environment: Environment, options: Options, fault: testing.Fault
) -> None:
    gateway.script(fault, times=5)
    async with connect(environment, options=options) as agent:
        assert await agent.checkpoint(b"x") == 1
    assert len(sent(gateway)) == 6


async def test_a_call_is_repeated_under_the_same_order(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(testing.LostAnswer())
    async with connect(environment, options=options) as agent:
        assert await agent.checkpoint(b"x") == 1
        assert await agent.checkpoint(b"y") == 2
    # The order of a repetition is how the gateway recognises it: under a new order, there would be three.
    assert sent(gateway) == ["PUT /checkpoints"] * 3
    assert saved(gateway) == [b"x", b"y"]
    assert orders(gateway) == sorted(set(orders(gateway)))


async def test_a_gateway_that_is_not_there_yet_is_waited_for(
    environment: Environment, options: Options
) -> None:
    async with testing.Gateway() as elsewhere:
        async with elsewhere.serve() as variables:
            url = variables["PERDURE_GATEWAY_URL"]
        # The port is free again: no server answers there until the gateway comes back.
        port = int(url.rpartition(":")[2])
        away = replace(environment, gateway_url=url)
        assert away.token_file is not None
        # In place before the gateway is: its first answer would be a lasting 401.
        away.token_file.write_text(token(2, 1))
        async with connect(away, options=options) as agent:
            saving = asyncio.create_task(agent.checkpoint(b"x"))
            done, _ = await asyncio.wait({saving}, timeout=0.05)
            assert not done
            async with elsewhere.serve(port=port):
                assert await saving == 1


async def test_a_call_fails_when_the_patience_ends(
    gateway: testing.Gateway, environment: Environment
) -> None:
    gateway.script(refuse("ledger-unavailable", 503), times=None)
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    with pytest.raises(GatewayUnavailable, match=r"PUT /checkpoints: 503 ledger-unavailable \(gave up after"):
        async with connect(environment, options=impatient) as agent:
            await agent.checkpoint(b"x")
    # The failure is not reported: the gateway's absence is no fault of the work.
    assert "POST /failure" not in sent(gateway)


async def test_retry_after_is_obeyed_up_to_a_minute() -> None:
    patient = Options(retries=Retries(patience=None, first_delay=0.001, longest_delay=0.01))
    async with testing.Gateway() as gateway, gateway.connect(options=patient) as agent:
        for seconds in (2, 86_400, 0):
            gateway.script(testing.Unavailable(retry_after=seconds))
        await agent.checkpoint(b"x")
        first, *later = [request.at for request in gateway.requests if request.route == "checkpoint"]
    pauses = [after - before for before, after in zip([first, *later], later, strict=False)]
    assert pauses[0] == 2
    assert pauses[1] == 60
    assert 0 < pauses[2] <= 0.01


async def test_the_token_is_read_again_after_a_refusal(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(testing.ExpiredToken())
    async with connect(environment, options=options) as agent:
        assert await agent.checkpoint(b"x") == 1
    statuses = [request.status for request in gateway.requests if request.route == "checkpoint"]
    assert statuses == [401, 201]


async def test_a_token_that_the_kubelet_replaced_is_used_at_once(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    assert environment.token_file is not None
    async with connect(environment, options=options) as agent:
        await agent.checkpoint(b"x")
        fresh = environment.token_file.with_name("fresh")
        fresh.write_text("other")
        fresh.replace(environment.token_file)
        # The old token would still be accepted; the new one is not, and is read a second time.
        with pytest.raises(GatewayError, match="401"):
            await agent.checkpoint(b"x")
    statuses = [request.status for request in gateway.requests if request.route == "checkpoint"]
    assert statuses == [201, 401, 401]


async def test_a_token_that_stays_refused_is_an_error(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(refuse("unauthenticated", 401), times=2)
    async with connect(environment, options=options) as agent:
        with pytest.raises(GatewayError) as caught:
            await agent.checkpoint(b"x")
    assert (caught.value.status, caught.value.kind) == (401, "unauthenticated")
    assert "detail of unauthenticated" in str(caught.value)


async def test_a_missing_token_file_is_named(environment: Environment, options: Options) -> None:
    assert environment.token_file is not None
    environment.token_file.unlink()
    with pytest.raises(AgentError, match="check PERDURE_TOKEN_FILE"):
        async with connect(environment, options=options) as agent:
            await agent.checkpoint(b"x")


async def test_a_refusal_is_not_repeated(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(refuse("too-large", 413))
    async with connect(environment, options=options) as agent:
        with pytest.raises(GatewayError, match="too-large"):
            await agent.checkpoint(b"x")
    assert sent(gateway) == ["PUT /checkpoints"]


async def test_a_corrupt_checkpoint_is_not_requested_again(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(refuse("checkpoint-corrupt", 500))
    async with connect(environment, options=options) as agent:
        with pytest.raises(DamagedCheckpoint, match="checkpoint-corrupt"):
            await agent.restore()
    assert sent(gateway) == ["GET /checkpoints/latest"]


async def test_a_checkpoint_that_is_damaged_in_transit_is_an_error(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.damage(1, in_transit=True)
    async with connect(environment, options=options) as agent:
        await agent.checkpoint(b"x")
        with pytest.raises(DamagedCheckpoint, match="checksum") as caught:
            await agent.restore()
    assert caught.value.sequence == 1
    assert sent(gateway).count("GET /checkpoints/latest") == 3


async def test_a_404_of_another_server_does_not_mean_that_there_is_no_checkpoint(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    astray = replace(environment, gateway_url=f"{environment.gateway_url}/elsewhere")
    async with connect(astray, options=options) as agent:
        with pytest.raises(GatewayError, match="404"):
            await agent.restore()


@pytest.mark.parametrize("write", ["checkpoint", "progress", "result", "failure", "restore"])
async def test_every_call_of_a_superseded_attempt_raises(
    gateway: testing.Gateway, environment: Environment, options: Options, write: str
) -> None:
    gateway.script(SUPERSEDED)
    with pytest.raises(Superseded, match="detail of superseded"):
        async with connect(environment, options=options) as agent:
            await {
                "checkpoint": lambda: agent.checkpoint(b"x"),
                "progress": lambda: agent.progress(5),
                "result": lambda: agent.result(1),
                "failure": lambda: agent.failure("no"),
                "restore": agent.restore,
            }[write]()
    assert gateway.reports == []


async def test_a_heartbeat_that_is_answered_superseded_stops_the_work(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(SUPERSEDED, on="heartbeat", times=None)
    stopped = asyncio.Event()

    async def main() -> None:
        async with connect(environment, options=options):
            try:
                await asyncio.sleep(30)
            finally:
                stopped.set()

    with pytest.raises(Superseded):
        await main()
    assert stopped.is_set()
    assert gateway.reports == []


async def test_heartbeats_go_on_while_the_gateway_fails_and_end_with_the_context(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    def heartbeats() -> int:
        return sum(request.route == "heartbeat" for request in gateway.requests)

    gateway.script(testing.Unreachable(), on="heartbeat", times=None)
    quick = replace(options, heartbeat_interval=0.001)
    async with connect(environment, options=quick):
        await gateway.until(lambda: heartbeats() >= 3)
        assert gateway.heartbeats == []
        gateway.clear_script()
        await gateway.until(lambda: len(gateway.heartbeats) >= 3)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "perdure-heartbeats"]


async def test_progress_does_not_wait_and_the_newest_arrives_later(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    quick = replace(options, heartbeat_interval=0.001)
    async with connect(environment, options=quick) as agent:
        with gateway.away():
            for percent in range(1, 11):
                await agent.progress(percent, f"step {percent}")
        await gateway.until(lambda: bool(gateway.progress))
    newest = gateway.progress[-1]
    assert (newest.percent, newest.message) == (10, "step 10")


async def test_progress_that_is_refused_is_not_sent_again(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(refuse("invalid-field", 422))
    async with connect(environment, options=replace(options, heartbeat_interval=0.001)) as agent:
        with pytest.raises(GatewayError, match="invalid-field"):
            await agent.progress(101)
        with pytest.raises(ValueError, match="percent, a message or both"):
            await agent.progress()
        seen = len(gateway.heartbeats)
        await gateway.until(lambda: len(gateway.heartbeats) >= seen + 3)
    assert sent(gateway) == ["POST /progress"]


async def test_a_result_is_in_the_termination_message_before_the_gateway_is_called(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    left: list[str] = []

    def recorded(_: testing.RecordedRequest) -> testing.Fault:
        left.append(environment.termination_log.read_text())
        return UNAVAILABLE

    gateway.script(recorded)
    async with connect(environment, options=options) as agent:
        await agent.result({"findings": ["ü"]})
    assert left == ['{"findings":["ü"]}']
    assert gateway.reports == [testing.Success(attempt=1, output={"findings": ["ü"]})]


@pytest.mark.parametrize(("length", "fits"), [(4094, True), (4095, False)])
async def test_the_termination_message_holds_a_whole_output_or_none(
    gateway: testing.Gateway, environment: Environment, options: Options, length: int, fits: bool
) -> None:
    environment.termination_log.write_text("older")
    async with connect(environment, options=options) as agent:
        await agent.result("x" * length)
    left = environment.termination_log.read_text()
    assert left == (json.dumps("x" * length) if fits else "")
    assert gateway.reports == [testing.Success(attempt=1, output="x" * length)]


async def test_a_result_survives_a_gateway_that_stays_away(
    gateway: testing.Gateway, environment: Environment
) -> None:
    gateway.script(testing.Unreachable(), times=None)
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    async with connect(environment, options=impatient) as agent:
        await agent.result({"n": 1})
    assert environment.termination_log.read_text() == '{"n":1}'


async def test_a_result_that_is_recorded_nowhere_is_an_error(
    gateway: testing.Gateway, environment: Environment
) -> None:
    gateway.script(testing.Unreachable(), times=None)
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    with pytest.raises(GatewayUnavailable):
        async with connect(environment, options=impatient) as agent:
            await agent.result("x" * 5000)


async def test_a_refused_result_leaves_no_message_and_becomes_a_failure(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    gateway.script(refuse("too-large", 413))
    with pytest.raises(GatewayError, match="too-large"):
        async with connect(environment, options=options) as agent:
            await agent.result(1)
    (report,) = gateway.reports
    assert isinstance(report, testing.Failure)
    assert environment.termination_log.read_text().startswith("GatewayError: 413")


async def test_an_attempt_reports_its_end_once(environment: Environment, options: Options) -> None:
    async with connect(environment, options=options) as agent:
        await agent.result(1)
        with pytest.raises(RuntimeError, match="already reported"):
            await agent.failure("no")


async def test_an_exception_is_reported_and_raised_again(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    error = KeyError("missing")
    with pytest.raises(KeyError) as caught:
        async with connect(environment, options=options):
            raise error
    assert caught.value is error
    assert gateway.reports == [reported_failure("KeyError: 'missing'", retryable=True)]
    assert environment.termination_log.read_text() == "KeyError: 'missing'"


async def test_an_agent_failure_says_whether_another_try_helps(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    with pytest.raises(AgentFailure):
        async with connect(environment, options=options):
            raise AgentFailure("no such model")
    assert gateway.reports == [reported_failure("no such model", retryable=False)]


async def test_an_exception_after_the_result_changes_nothing(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    async def main() -> None:
        async with connect(environment, options=options) as agent:
            await agent.result(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await main()
    assert gateway.reports == [testing.Success(attempt=1, output=1)]
    assert environment.termination_log.read_text() == "1"


async def test_leaving_the_context_without_a_result_reports_nothing(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    async with connect(environment, options=options):
        pass
    assert gateway.reports == []
    assert not environment.termination_log.exists()


async def test_a_cancelled_agent_can_save_and_stays_cancelled(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    ready = asyncio.Event()

    async def main() -> None:
        async with connect(environment, options=options) as agent:
            try:
                ready.set()
                await asyncio.sleep(30)
            finally:
                await agent.checkpoint(b"last words")

    task = asyncio.create_task(main())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert saved(gateway)[-1] == b"last words"
    assert gateway.reports == []


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
async def test_a_value_that_json_cannot_hold_is_refused_before_it_is_sent(
    gateway: testing.Gateway, environment: Environment, options: Options, value: object
) -> None:
    async with connect(environment, options=options) as agent:
        with pytest.raises((TypeError, ValueError), match="checkpoint cannot be written as JSON"):
            await agent.checkpoint(value)
        with pytest.raises((TypeError, ValueError), match="output cannot be written as JSON"):
            await agent.result(value)
        await agent.result("well")
    assert gateway.reports == [testing.Success(attempt=1, output="well")]


async def test_a_long_failure_is_cut_between_characters(environment: Environment, options: Options) -> None:
    async with connect(environment, options=options) as agent:
        await agent.failure("ü" * 5000)
    assert environment.termination_log.read_text() == "ü" * 2048
