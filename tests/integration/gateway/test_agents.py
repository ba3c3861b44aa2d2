"""Real agents against a real gateway on a real ledger."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from datetime import datetime

import aiohttp
import pytest

from perdure.domain.payloads import value_of
from perdure.domain.phases import Phase
from perdure.domain.records import Commit, RunState, Vitals
from perdure.ledger import Ledger
from perdure_agent import Options, Superseded, connect
from perdure_agent._checkpoints import Which
from perdure_agent._payload import MemorySink, in_memory
from tests.integration.gateway.conftest import KEY, AgentOf
from tests.integration.gateway.keys import ClusterKeys
from tests.integration.ledger.samples import at, attempt_record, started, superseded
from tests.support.waiting import until

MIB = 1024 * 1024


async def test_an_agent_works_from_its_input_to_its_result(
    ledger: Ledger, run: RunState, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    environment = agent_of(gateway, run.attempts[KEY].pod_uid)
    async with connect(environment, options=options) as agent:
        assert await agent.restore() is None
        assert await agent.checkpoint({"done": 1}, label="äpfel/1.py") == 1
        assert await agent.checkpoint(b"\x00" * 100_000) == 2
        saved = await agent.restore()
        assert saved is not None
        assert (saved.sequence, saved.label, saved.data) == (2, None, b"\x00" * 100_000)
        await agent.progress(50, "half of it")
        await agent.result({"findings": ["ü"]})
    updates = await ledger.updates(run.run.uid, since=None)
    number, report = updates.reports[KEY]
    assert (number, report.outcome, value_of(report.output)) == (1, "Succeeded", {"findings": ["ü"]})
    (vitals,) = updates.vitals
    assert (vitals.checkpoint_sequence, vitals.percent, vitals.message) == (2, 50, "half of it")
    events = await ledger.events(run.run.uid)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events[1:]] == ["task.checkpointed", "task.checkpointed", "task.progress"]
    saved_events = [event for event in events if event.type == "task.checkpointed"]
    assert [event.data["sequence"] for event in saved_events] == [1, 2]
    assert events[1].data["label"] == "äpfel/1.py"


async def test_the_task_has_its_names_input_and_checkpoint(
    run: RunState, gateway: str, cluster: ClusterKeys, agent_of: AgentOf, options: Options
) -> None:
    pod_uid = run.attempts[KEY].pod_uid
    assert pod_uid is not None
    async with connect(agent_of(gateway, pod_uid), options=options) as agent:
        await agent.checkpoint(b"x", label="first")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.token(pod_uid)}"}) as client:
        async with client.get(f"{gateway}/agent/v1/task") as response:
            task = await response.json()
        async with client.get(f"{gateway}/readyz") as response:
            assert response.status == 200
    assert (task["workflow"], task["step"], task["index"], task["attempt"]) == ("audit", "work", None, 1)
    assert (task["checkpoint"]["sequence"], task["checkpoint"]["label"]) == (1, "first")
    assert datetime.fromisoformat(task["checkpoint"]["at"]).tzinfo is not None
    assert task["lastFailure"] is None


async def test_the_next_attempt_has_the_last_failure(
    ledger: Ledger, run: RunState, epoch: int, gateway: str, cluster: ClusterKeys
) -> None:
    new = await superseded(ledger, run, epoch)
    state = await ledger.load(run.run.uid)
    assert state is not None
    failure = {"attempt": 1, "reason": "ExitCode", "message": "x" * 4096, "exitCode": 2}
    task = replace(state.tasks[KEY], last_failure=failure)
    await ledger.commit(Commit(run=state.run, tasks=(task,)), epoch=epoch)
    assert new.pod_uid is not None
    headers = {"Authorization": f"Bearer {cluster.token(new.pod_uid)}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.get(f"{gateway}/agent/v1/task") as response,
    ):
        given = await response.json()
    assert (given["attempt"], given["lastFailure"]) == (2, failure)


async def test_retention_keeps_as_many_checkpoints_as_the_run_configures(
    ledger: Ledger, epoch: int, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    run = await started(ledger, epoch, KEY, spec={"retention": {"checkpointsPerTask": 2}})
    environment = agent_of(gateway, run.attempts[KEY].pod_uid)
    async with connect(environment, options=options) as agent:
        for number in range(1, 5):
            assert await agent.checkpoint(number) == number
    kept = await ledger.database.fetch("select sequence from perdure.checkpoint order by 1")
    assert [row["sequence"] for row in kept] == [3, 4]


async def test_a_replacement_continues_and_the_replaced_attempt_can_write_nothing(
    ledger: Ledger, run: RunState, epoch: int, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    old = agent_of(gateway, run.attempts[KEY].pod_uid)
    # A heartbeat after the replacement would end the agent before the calls below: the first heartbeat is in
    # the ledger before the attempt is replaced, and there is no second one.
    silent = replace(options, heartbeat_interval=3600)

    async def first_heartbeat() -> tuple[Vitals, ...]:
        return tuple((await ledger.updates(run.run.uid, since=None)).vitals)

    async with connect(old, options=silent) as agent:
        await until(first_heartbeat)
        await agent.checkpoint(b"state of attempt 1")
        new = await superseded(ledger, run, epoch)
        payload = await in_memory(b"too late", "text/plain")
        # The gateway has cached the old session as open, and the ledger fences its writes. The calls bypass
        # the agent, which would send no further call after the first Superseded.
        for call in (
            lambda: agent._session.writer.save(payload, label=None, recoverable=True, patience=60),
            lambda: agent._session.backend.progress(percent=99, message=None),
            lambda: agent._session.backend.load(Which(), MemorySink(), patience=60),
            lambda: agent._session.backend.list(None, patience=60),
            lambda: agent._session.backend.heartbeat(),
        ):
            with pytest.raises(Superseded):
                await call()
    for report in ("result", "failure"):
        with pytest.raises(Superseded):
            async with connect(old, options=options) as agent:
                await getattr(agent, report)("too late")
    async with connect(agent_of(gateway, new.pod_uid), options=options) as agent:
        saved = await agent.restore()
        assert saved is not None
        assert (saved.sequence, saved.data) == (1, b"state of attempt 1")
        assert await agent.checkpoint(b"state of attempt 2") == 2
    assert not (await ledger.updates(run.run.uid, since=None)).reports


async def test_a_heartbeat_reports_a_closed_attempt(
    ledger: Ledger, run: RunState, epoch: int, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    working = asyncio.Event()

    async def main() -> None:
        quick = replace(options, heartbeat_interval=0.02)
        async with connect(agent_of(gateway, run.attempts[KEY].pod_uid), options=quick):
            working.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(main())
    await working.wait()
    await superseded(ledger, run, epoch)
    async with asyncio.timeout(20):
        with pytest.raises(Superseded):
            await task


async def test_a_result_whose_answer_was_lost_is_acknowledged_after_the_attempt_was_closed(
    ledger: Ledger, run: RunState, epoch: int, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    environment = agent_of(gateway, run.attempts[KEY].pod_uid)
    async with connect(environment, options=options) as agent:
        await agent.result("first")
    state = await ledger.load(run.run.uid)
    assert state is not None
    closed = replace(state.attempts[KEY], closed_at=at(9), outcome=Phase.SUCCEEDED)
    await ledger.commit(Commit(run=state.run, attempts=(closed,)), epoch=epoch)
    async with connect(environment, options=options) as agent:
        await agent.result("second")
    loaded = await ledger.load(run.run.uid)
    assert loaded is not None
    report = loaded.attempts[KEY].report
    assert report is not None
    assert value_of(report.output) == "first"


async def test_a_pod_that_calls_before_its_uid_is_recorded_retries(
    ledger: Ledger, run: RunState, epoch: int, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    attempt = attempt_record(KEY, 2)
    state = await ledger.load(run.run.uid)
    assert state is not None
    await ledger.commit(
        Commit(
            run=state.run,
            tasks=(replace(state.tasks[KEY], attempt=2),),
            attempts=(replace(state.attempts[KEY], closed_at=at(9), outcome=Phase.FAILED), attempt),
        ),
        epoch=epoch,
    )
    async with connect(agent_of(gateway, "pod-2"), options=options) as agent:
        saving = asyncio.create_task(agent.checkpoint(b"x"))
        done, _ = await asyncio.wait({saving}, timeout=0.1)
        assert not done
        await ledger.record_pod(run.run.uid, attempt, pod_uid="pod-2", epoch=epoch)
        assert await saving == 1


async def test_a_token_opens_its_own_task_only(
    run: RunState, gateway: str, cluster: ClusterKeys, agent_of: AgentOf
) -> None:
    pod_uid = run.attempts[KEY].pod_uid
    assert pod_uid is not None
    tokens = {
        cluster.token(pod_uid, namespace="team-b"): 503,
        cluster.token("somebody-else"): 503,
        cluster.token(pod_uid, lifetime=-60): 401,
        ClusterKeys().token(pod_uid): 401,
        cluster.token(pod_uid): 200,
    }
    async with aiohttp.ClientSession() as client:
        for token, status in tokens.items():
            headers = {"Authorization": f"Bearer {token}"}
            async with client.get(f"{gateway}/agent/v1/task", headers=headers) as response:
                assert response.status == status


@pytest.mark.parametrize(("length", "accepted"), [(MIB - 2, True), (MIB - 1, False)])
async def test_the_real_limit_of_an_output(
    ledger: Ledger,
    run: RunState,
    gateway: str,
    cluster: ClusterKeys,
    length: int,
    accepted: bool,
) -> None:
    pod_uid = run.attempts[KEY].pod_uid
    assert pod_uid is not None
    body = io.BytesIO(b'{"output": "' + b"x" * length + b'"}')
    headers = {"Authorization": f"Bearer {cluster.token(pod_uid)}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.post(f"{gateway}/agent/v1/result", data=body) as response,
    ):
        assert response.status == (204 if accepted else 413)
    assert bool((await ledger.updates(run.run.uid, since=None)).reports) is accepted
