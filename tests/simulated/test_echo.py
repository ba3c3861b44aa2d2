"""A step kind that only tests know, from its manifest to its status, in the real control loop."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Signal, TaskKey
from tests.fakes.clock import now, run
from tests.fakes.world import World, eventually
from tests.support.echo import WITH_ECHO

ECHO = {"name": "a", "echo": {"signal": "go-${index}"}, "forEach": ["x", "y"]}
LAST = {"name": "last", "agent": {"image": "agent"}, "input": "${steps.a.outputs}"}
KEYS = [TaskKey("a", 0), TaskKey("a", 1)]


def send(at: World, uid: str, key: TaskKey, payload: Any) -> None:
    name = f"go-{key.index}"
    signal = Signal(id=f"{name}-{payload}", key=key, name=name, payload=payload, sender="ada", at=now())
    at.ledger.send_signal(uid, signal)


def running(at: World, uid: str) -> bool:
    tasks = at.tasks(uid)
    return all(key in tasks and tasks[key].phase is Phase.RUNNING for key in KEYS)


def test_signals_end_the_tasks_of_a_step_and_their_payloads_are_the_outputs() -> None:
    async def scenario() -> None:
        at = World(1, kinds=WITH_ECHO)
        at.start_operator()
        uid = at.apply("echoes", {"steps": [ECHO, LAST]})
        await eventually(lambda: running(at, uid))
        await eventually(lambda: at.status("echoes").get("tasks") == {"total": 2, "running": 2})
        send(at, uid, KEYS[0], "one")
        await eventually(lambda: at.tasks(uid)[KEYS[0]].phase is Phase.SUCCEEDED)
        send(at, uid, KEYS[1], "two")
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        assert [at.tasks(uid)[key].output for key in KEYS] == ["one", "two"]
        assert at.tasks(uid)[TaskKey("last")].input == ["one", "two"]
        await eventually(lambda: at.status_written("echoes"))
        assert at.status("echoes")["progress"] == "3/3"
        await at.close()

    run(scenario())


def test_a_signal_that_is_sent_while_no_operator_leads_is_consumed_by_the_next() -> None:
    async def scenario() -> None:
        at = World(1, kinds=WITH_ECHO)
        at.start_operator()
        uid = at.apply("echoes", {"steps": [ECHO]})
        await eventually(lambda: running(at, uid))
        await at.kill_operator()
        for key in KEYS:
            send(at, uid, key, key.index)
        await asyncio.sleep(60)
        assert running(at, uid)
        at.start_operator()
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, [at.tasks(uid)[key].output for key in KEYS]) == (Phase.SUCCEEDED, [0, 1])
        await at.close()

    run(scenario())


def test_a_paused_step_takes_signals_and_a_cancelled_one_does_not() -> None:
    async def scenario() -> None:
        at = World(1, kinds=WITH_ECHO)
        at.start_operator()
        uid = at.apply("echoes", {"steps": [ECHO]})
        await eventually(lambda: running(at, uid))
        at.desire("echoes", "Paused")
        await eventually(lambda: at.record(uid).phase is Phase.PAUSED)
        send(at, uid, KEYS[0], "one")
        await eventually(lambda: at.tasks(uid)[KEYS[0]].phase is Phase.SUCCEEDED)
        assert at.tasks(uid)[KEYS[1]].phase is Phase.PAUSED
        at.desire("echoes", "Running")
        await eventually(lambda: at.tasks(uid)[KEYS[1]].phase is Phase.RUNNING)
        at.desire("echoes", "Cancelled")
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, at.tasks(uid)[KEYS[1]].phase) == (Phase.CANCELLED, Phase.CANCELLED)
        await at.close()

    run(scenario())


def test_a_signal_and_the_end_of_a_pause_may_meet_in_one_decision() -> None:
    async def scenario() -> None:
        at = World(1, kinds=WITH_ECHO)
        at.start_operator()
        uid = at.apply("echoes", {"steps": [{**ECHO, "timeout": "60s"}]})
        await eventually(lambda: running(at, uid))
        at.desire("echoes", "Paused")
        await eventually(lambda: at.record(uid).phase is Phase.PAUSED)
        await at.kill_operator()
        send(at, uid, KEYS[0], "one")
        at.desire("echoes", "Running")
        await asyncio.sleep(120)
        commits = at.guarantees.counts["commits"]
        at.start_operator()
        await eventually(lambda: at.tasks(uid)[KEYS[0]].phase is Phase.SUCCEEDED)
        assert at.guarantees.counts["commits"] == commits + 1
        assert at.tasks(uid)[KEYS[1]].phase is Phase.RUNNING
        send(at, uid, KEYS[1], "two")
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, at.tasks(uid)[KEYS[1]].output) == (Phase.SUCCEEDED, "two")
        await at.close()

    run(scenario())


def test_a_step_that_no_signal_ends_times_out() -> None:
    async def scenario() -> None:
        at = World(1, kinds=WITH_ECHO)
        at.start_operator()
        uid = at.apply("echoes", {"steps": [{**ECHO, "timeout": "30s"}]})
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.FAILED
        assert {task.reason for task in at.tasks(uid).values()} == {Reason.TIMEOUT}
        await at.close()

    run(scenario())
