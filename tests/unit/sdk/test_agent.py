"""The agent's handle against a gateway that is away, slow, wrong, or says no."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from tests.unit.sdk.misbehaving import MisbehavingGateway, drop, refuse, running

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
)

UNAVAILABLE = refuse("ledger-unavailable", 503, Retry_After="0")
SUPERSEDED = refuse("superseded", 409)


async def test_knows_its_task(environment: Environment, options: Options) -> None:
    async with connect(environment, options=options) as agent:
        assert agent.input == {"files": ["a.py"]}
        assert (agent.step, agent.attempt, agent.task) == ("analyse", 2, "audit-analyse-0-abcde")
        assert (agent.model, agent.last_failure) == (None, None)


async def test_knows_its_model_and_why_the_attempt_before_failed(
    environment: Environment, options: Options
) -> None:
    failure = LastFailure(attempt=1, reason="ExitCode", message="no such file", exit_code=2)
    told = replace(environment, model="large-2", last_failure=failure)
    async with connect(told, options=options) as agent:
        assert (agent.model, agent.last_failure) == ("large-2", failure)


@pytest.mark.parametrize("content", [None, "", "\n"])
async def test_asks_the_gateway_for_an_input_that_is_not_mounted(
    environment: Environment, options: Options, content: str | None
) -> None:
    assert environment.input_file is not None
    environment.input_file.unlink()
    if content is not None:
        environment.input_file.write_text(content)
    async with connect(environment, options=options) as agent:
        assert agent.input == {"from": "gateway"}


async def test_an_input_that_is_not_json_is_named(environment: Environment, options: Options) -> None:
    assert environment.input_file is not None
    environment.input_file.write_text("{")
    with pytest.raises(ValueError, match=r"input\.json is not JSON"):
        async with connect(environment, options=options):
            pass


async def test_checkpoint_and_restore(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    async with connect(environment, options=options) as agent:
        assert await agent.restore() is None
        assert await agent.checkpoint(b"\x00\xff") == 1
        assert await agent.checkpoint({"done": ["ä"]}, label="Prüfung 1/2 & more") == 2
        saved = await agent.restore()
    assert gateway.checkpoints[0] == (b"\x00\xff", "application/octet-stream", None)
    assert gateway.checkpoints[1][:2] == ('{"done":["ä"]}'.encode(), "application/json")
    assert saved is not None
    assert (saved.sequence, saved.label) == (2, "Prüfung 1/2 & more")
    assert saved.json() == {"done": ["ä"]}


async def test_a_large_checkpoint_survives_a_retry_whole(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    data = bytes(range(256)) * 4096 * 5
    gateway.faults.extend([UNAVAILABLE, drop])
    async with connect(environment, options=options) as agent:
        await agent.checkpoint(data)
    assert gateway.checkpoints[-1][0] == data


@pytest.mark.parametrize("fault", [UNAVAILABLE, drop, refuse("internal", 500), refuse("busy", 429)])
async def test_keeps_trying_while_the_gateway_fails(
    gateway: MisbehavingGateway, environment: Environment, options: Options, fault: object
) -> None:
    gateway.faults.extend([fault] * 5)  # type: ignore[list-item]
    async with connect(environment, options=options) as agent:
        assert await agent.checkpoint(b"x") == 1
    assert len(gateway.requests) == 6


async def test_a_call_is_repeated_under_the_same_order(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.lose_answers = 1
    async with connect(environment, options=options) as agent:
        await agent.checkpoint(b"x")
        await agent.checkpoint(b"y")
    # This double keeps all that it gets: the ledger tells by the order which is a repetition.
    orders = [int(headers["Perdure-Order"]) for headers in gateway.headers]
    assert [data for data, _, _ in gateway.checkpoints] == [b"x", b"x", b"y"]
    assert orders[0] == orders[1] < orders[2]


async def test_waits_for_a_gateway_that_is_not_there_yet(environment: Environment, options: Options) -> None:
    elsewhere = MisbehavingGateway()
    async with running(elsewhere):
        url = elsewhere.url
    # The port is free again: nobody answers there until the gateway comes back.
    away = replace(environment, gateway_url=url)
    async with connect(away, options=options) as agent:
        saving = asyncio.create_task(agent.checkpoint(b"x"))
        done, _ = await asyncio.wait({saving}, timeout=0.05)
        assert not done
        async with running(elsewhere, port=int(url.rpartition(":")[2])):
            assert await saving == 1


async def test_gives_up_when_its_patience_ends(gateway: MisbehavingGateway, environment: Environment) -> None:
    gateway.faults.extend([UNAVAILABLE] * 10_000)
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    with pytest.raises(GatewayUnavailable, match=r"PUT /checkpoints: 503 ledger-unavailable \(gave up after"):
        async with connect(environment, options=impatient) as agent:
            await agent.checkpoint(b"x")
    # An absent gateway is not asked to note that it is absent.
    assert not any(request == "POST /failure" for request in gateway.requests)


async def test_obeys_retry_after_within_reason(
    gateway: MisbehavingGateway,
    environment: Environment,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(delay: float) -> None:
        if delay == options.heartbeat_interval:
            await sleep(delay)
        pauses.append(delay)

    gateway.faults.extend(
        [refuse("busy", 503, Retry_After="2"), refuse("busy", 503, Retry_After="86400"), UNAVAILABLE]
    )
    monkeypatch.setattr("perdure_agent._clock.asyncio.sleep", noted)
    patient = replace(options, retries=replace(options.retries, patience=None))
    async with connect(environment, options=patient) as agent:
        await agent.checkpoint(b"x")
    assert pauses[0] == 2
    assert pauses[1] == 60
    assert pauses[2] <= 0.01


async def test_reads_the_token_again_after_a_refusal(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    token_file = environment.token_file
    assert token_file is not None

    def expired(_: object) -> object:
        token_file.write_text("second")
        return refuse("unauthenticated", 401)(_)  # type: ignore[arg-type]

    gateway.faults.append(expired)  # type: ignore[arg-type]
    async with connect(environment, options=options) as agent:
        assert await agent.checkpoint(b"x") == 1
    assert "Bearer first" in gateway.tokens
    assert gateway.tokens[-1] == "Bearer second"


async def test_a_token_that_the_kubelet_replaced_is_used_at_once(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    assert environment.token_file is not None
    async with connect(environment, options=options) as agent:
        await agent.checkpoint(b"x")
        fresh = environment.token_file.with_name("fresh")
        fresh.write_text("other")
        fresh.replace(environment.token_file)
        await agent.checkpoint(b"x")
    assert gateway.tokens[-1] == "Bearer other"


async def test_a_token_that_stays_refused_is_an_error(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.extend([refuse("unauthenticated", 401)] * 2)
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
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("too-large", 413))
    async with connect(environment, options=options) as agent:
        with pytest.raises(GatewayError, match="too-large"):
            await agent.checkpoint(b"x")
    assert gateway.requests == ["PUT /checkpoints"]


async def test_a_corrupt_checkpoint_is_not_waited_for(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("checkpoint-corrupt", 500))
    async with connect(environment, options=options) as agent:
        with pytest.raises(DamagedCheckpoint, match="checkpoint-corrupt"):
            await agent.restore()
    assert gateway.requests == ["GET /checkpoints/latest"]


async def test_a_checkpoint_damaged_on_the_way_is_noticed(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.damaged.add(1)
    async with connect(environment, options=options) as agent:
        await agent.checkpoint(b"x")
        with pytest.raises(DamagedCheckpoint, match="checksum") as caught:
            await agent.restore()
    assert caught.value.sequence == 1
    assert gateway.requests.count("GET /checkpoints/latest") == 3


async def test_a_stranger_s_404_is_not_taken_for_no_checkpoint(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    astray = replace(environment, gateway_url=gateway.url + "/elsewhere")
    async with connect(astray, options=options) as agent:
        with pytest.raises(GatewayError, match="404"):
            await agent.restore()


@pytest.mark.parametrize("write", ["checkpoint", "progress", "result", "failure", "restore"])
async def test_a_superseded_attempt_is_told_at_every_call(
    gateway: MisbehavingGateway, environment: Environment, options: Options, write: str
) -> None:
    gateway.faults.append(SUPERSEDED)
    with pytest.raises(Superseded, match="detail of superseded"):
        async with connect(environment, options=options) as agent:
            await {
                "checkpoint": lambda: agent.checkpoint(b"x"),
                "progress": lambda: agent.progress(5),
                "result": lambda: agent.result(1),
                "failure": lambda: agent.failure("no"),
                "restore": agent.restore,
            }[write]()
    assert not gateway.reports


async def test_a_heartbeat_that_is_told_superseded_stops_the_work(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.heartbeat_fault = SUPERSEDED
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
    assert not gateway.reports


async def test_heartbeats_go_on_while_the_gateway_fails_and_end_with_the_context(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.heartbeat_fault = drop
    quick = replace(options, heartbeat_interval=0.001)
    async with connect(environment, options=quick):
        await gateway.until(lambda: gateway.heartbeats >= 3)
        gateway.heartbeat_fault = None
        seen = gateway.heartbeats
        await gateway.until(lambda: gateway.heartbeats >= seen + 3)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "perdure-heartbeats"]


async def test_progress_does_not_wait_and_the_newest_arrives_later(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.heartbeat_fault = drop
    quick = replace(options, heartbeat_interval=0.001)
    gateway.faults.extend([drop] * 50)
    async with connect(environment, options=quick) as agent:
        for percent in range(1, 11):
            await agent.progress(percent, f"step {percent}")
        gateway.faults.clear()
        gateway.heartbeat_fault = None
        await gateway.until(lambda: bool(gateway.progress))
    assert gateway.progress[-1] == {"percent": 10, "message": "step 10"}


async def test_progress_that_is_refused_is_not_sent_again(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("invalid-field", 422))
    async with connect(environment, options=replace(options, heartbeat_interval=0.001)) as agent:
        with pytest.raises(GatewayError, match="invalid-field"):
            await agent.progress(101)
        with pytest.raises(ValueError, match="percent, a message or both"):
            await agent.progress()
        seen = gateway.heartbeats
        await gateway.until(lambda: gateway.heartbeats >= seen + 3)
    assert gateway.requests == ["POST /progress"]


async def test_a_result_is_left_in_the_termination_message_before_the_gateway_is_tried(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    left: list[str] = []

    def look(_: object) -> object:
        left.append(environment.termination_log.read_text())
        return refuse("ledger-unavailable", 503)(_)  # type: ignore[arg-type]

    gateway.faults.append(look)  # type: ignore[arg-type]
    async with connect(environment, options=options) as agent:
        await agent.result({"findings": ["ü"]})
    assert left == ['{"findings":["ü"]}']
    assert gateway.reports == [("result", {"findings": ["ü"]})]


@pytest.mark.parametrize(("length", "fits"), [(4094, True), (4095, False)])
async def test_half_an_output_is_never_left(
    gateway: MisbehavingGateway, environment: Environment, options: Options, length: int, fits: bool
) -> None:
    environment.termination_log.write_text("older")
    async with connect(environment, options=options) as agent:
        await agent.result("x" * length)
    left = environment.termination_log.read_text()
    assert left == (json.dumps("x" * length) if fits else "")
    assert gateway.reports == [("result", "x" * length)]


async def test_a_result_survives_a_gateway_that_stays_away(
    gateway: MisbehavingGateway, environment: Environment
) -> None:
    gateway.faults.extend([drop] * 10_000)
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    async with connect(environment, options=impatient) as agent:
        await agent.result({"n": 1})
    assert environment.termination_log.read_text() == '{"n":1}'


async def test_a_result_that_nothing_keeps_is_an_error(
    gateway: MisbehavingGateway, environment: Environment
) -> None:
    gateway.faults.extend([drop] * 10_000)
    impatient = Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01))
    with pytest.raises(GatewayUnavailable):
        async with connect(environment, options=impatient) as agent:
            await agent.result("x" * 5000)


async def test_a_refused_result_leaves_no_message_and_becomes_a_failure(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    gateway.faults.append(refuse("too-large", 413))
    with pytest.raises(GatewayError, match="too-large"):
        async with connect(environment, options=options) as agent:
            await agent.result(1)
    (report,) = gateway.reports
    assert report[0] == "failure"
    assert environment.termination_log.read_text().startswith("GatewayError: 413")


async def test_reports_once(environment: Environment, options: Options) -> None:
    async with connect(environment, options=options) as agent:
        await agent.result(1)
        with pytest.raises(RuntimeError, match="already reported"):
            await agent.failure("no")


async def test_an_exception_is_reported_and_goes_on(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    error = KeyError("missing")
    with pytest.raises(KeyError) as caught:
        async with connect(environment, options=options):
            raise error
    assert caught.value is error
    assert gateway.reports == [("failure", {"message": "KeyError: 'missing'", "retryable": True})]
    assert environment.termination_log.read_text() == "KeyError: 'missing'"


async def test_an_agent_failure_says_whether_another_try_helps(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    with pytest.raises(AgentFailure):
        async with connect(environment, options=options):
            raise AgentFailure("no such model")
    assert gateway.reports == [("failure", {"message": "no such model", "retryable": False})]


async def test_an_exception_after_the_result_changes_nothing(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    async def main() -> None:
        async with connect(environment, options=options) as agent:
            await agent.result(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await main()
    assert gateway.reports == [("result", 1)]
    assert environment.termination_log.read_text() == "1"


async def test_leaving_without_a_word_reports_nothing(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    async with connect(environment, options=options):
        pass
    assert not gateway.reports
    assert not environment.termination_log.exists()


async def test_cancellation_goes_through_and_lets_the_agent_save(
    gateway: MisbehavingGateway, environment: Environment, options: Options
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
    assert gateway.checkpoints[-1][0] == b"last words"
    assert not gateway.reports


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
async def test_what_json_cannot_hold_is_refused_here(
    gateway: MisbehavingGateway, environment: Environment, options: Options, value: object
) -> None:
    async with connect(environment, options=options) as agent:
        with pytest.raises((TypeError, ValueError), match="checkpoint cannot be written as JSON"):
            await agent.checkpoint(value)
        with pytest.raises((TypeError, ValueError), match="output cannot be written as JSON"):
            await agent.result(value)
        await agent.result("well")
    assert gateway.reports == [("result", "well")]


async def test_a_long_failure_is_cut_between_characters(environment: Environment, options: Options) -> None:
    async with connect(environment, options=options) as agent:
        await agent.failure("ü" * 5000)
    assert environment.termination_log.read_text() == "ü" * 2048
