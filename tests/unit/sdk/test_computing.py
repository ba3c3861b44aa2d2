"""Heartbeats of an agent that computes: in virtual time, and from the real thread of a real process."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.support.waiting import until

from perdure_agent import Environment, Options, Superseded, _heartbeat_thread, connect, testing

THREAD = "perdure-heartbeats"


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


async def test_heartbeats_go_on_in_virtual_time(gateway: testing.Gateway) -> None:
    async with gateway.connect():
        await gateway.clock.advance(0)
        gateway.clock.compute(60)
        assert gateway.heartbeats == [0, 11, 22, 33, 44, 55]
        assert gateway.clock.now == 60
        await gateway.clock.advance(10)
    # Nothing is sent twice: the event loop's next heartbeat follows the thread's last one.
    assert gateway.heartbeats[6:] in ([60, 70], [60])


async def test_without_the_thread_nothing_is_sent(gateway: testing.Gateway) -> None:
    async with gateway.connect(options=Options(heartbeat_thread=False)):
        await gateway.clock.advance(0)
        gateway.clock.compute(600)
        assert gateway.heartbeats == [0]


async def test_a_takeover_during_a_computation_ends_the_agent(gateway: testing.Gateway) -> None:
    async def main() -> None:
        async with gateway.connect():
            await gateway.clock.advance(0)
            gateway.script(testing.Takeover(), on="heartbeat")
            gateway.clock.compute(60)
            await asyncio.sleep(30)

    with pytest.raises(Superseded):
        await main()
    refused = [request for request in gateway.requests if request.status == 409]
    # One heartbeat learned of it, and no other was sent.
    assert [request.route for request in refused] == ["heartbeat"]


@pytest.mark.parametrize(
    "fault",
    [testing.Unavailable(), testing.Unreachable(), testing.ExpiredToken(renewed=False), testing.Slow(6)],
)
async def test_an_absent_gateway_during_a_computation_is_no_error(
    gateway: testing.Gateway, fault: testing.Fault
) -> None:
    async with gateway.connect() as agent:
        await gateway.clock.advance(0)
        gateway.script(fault, on="heartbeat", times=3)
        gateway.clock.compute(16)
        assert gateway.heartbeats == [0]
        gateway.renew_token()
        gateway.clock.compute(11)
        assert gateway.heartbeats[1] == 17
        assert await agent.checkpoint(b"y") == 1


async def test_a_refused_heartbeat_does_not_reach_the_computing_agent(gateway: testing.Gateway) -> None:
    async with gateway.connect():
        await gateway.clock.advance(0)
        gateway.script(testing.Refusal("not-found", 404), on="heartbeat", times=2)
        gateway.clock.compute(40)
        assert gateway.heartbeats == [0, 33]


async def test_after_the_result_no_heartbeat_is_sent(gateway: testing.Gateway) -> None:
    async with gateway.connect() as agent:
        await agent.result(1)
        before = len(gateway.requests)
        gateway.clock.compute(600)
        assert len(gateway.requests) == before


async def test_a_kill_reaches_a_computing_agent(gateway: testing.Gateway) -> None:
    async def main() -> None:
        async with connect():
            await gateway.clock.advance(0)
            gateway.script(testing.Kill(), on="heartbeat")
            gateway.clock.compute(60)
            raise AssertionError("the pod is dead")

    assert await gateway.run(main) == 137


async def test_the_thread_ends_with_the_agent(environment: Environment) -> None:
    for _ in range(2):
        async with connect(environment):
            assert running() == [THREAD]
        # The thread reports its end a moment before it leaves the list of threads.
        await until(lambda: running() == [])
    with pytest.raises(ZeroDivisionError):
        async with connect(environment):
            raise ZeroDivisionError
    await until(lambda: running() == [])


async def test_local_mode_has_no_thread(environment: Environment, tmp_path: object) -> None:
    async with connect(replace(environment, gateway_url=None, task="other")):
        assert running() == []


async def test_an_agent_whose_system_has_no_threads_left_works(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    # Before the agent: the client of the event loop has no thread of its own for an address.
    monkeypatch.setattr(_heartbeat_thread.threading.Thread, "start", start)
    async with connect(environment, options=options) as agent:
        assert await agent.checkpoint(b"x") == 1


def test_a_fork_waits_for_a_heartbeat_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_heartbeat_thread, "_FORK_WAIT", 0.01)
    guard = _heartbeat_thread._ForkGuard()
    guard.before()
    assert guard.lock.locked()
    guard.after_in_parent()
    assert not guard.lock.locked()
    with guard.lock:
        guard.before()
        guard.after_in_parent()
        # The heartbeat's lock is the heartbeat's.
        assert guard.lock.locked()
        held = guard.lock
        guard.after_in_child()
    assert guard.lock is not held
    assert not guard.lock.locked()


PROGRAM = """
import asyncio, os, sys, threading, time
import perdure_agent
from perdure_agent import Options

async def main():
    async with perdure_agent.connect(options=Options(heartbeat_interval=0.02)) as agent:
        await agent.checkpoint(b"ready")
        {work}
        await asyncio.sleep(0)
        await agent.result("done")

perdure_agent.run(main)
"""
#: The event loop has no turn until the test sends a line.
COMPUTE = "sys.stdin.readline()"
FORK = """
        child = os.fork()
        if child == 0:
            names = [thread.name for thread in threading.enumerate()]
            time.sleep(0.2)
            os._exit(len(names) - 1)
        assert os.waitpid(child, 0)[1] == 0
        sys.stdin.readline()
"""


@asynccontextmanager
async def process(gateway: testing.Gateway, work: str) -> AsyncIterator[asyncio.subprocess.Process]:
    async with gateway.serve() as variables, asyncio.timeout(60):
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM.format(work=work),
            env={**os.environ, **variables},
            stdin=asyncio.subprocess.PIPE,
        )
        try:
            # From the checkpoint on, the event loop of the agent stands still.
            await gateway.until(lambda: gateway.latest is not None, deadline=60)
            yield running
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()


async def go_on(running: asyncio.subprocess.Process) -> int:
    await running.communicate(b"\n")
    assert running.returncode is not None
    return running.returncode


@pytest.mark.parametrize("work", [COMPUTE, FORK], ids=["computes", "forks"])
async def test_a_process_that_computes_sends_heartbeats(gateway: testing.Gateway, work: str) -> None:
    async with process(gateway, work) as running:
        wanted = len(gateway.heartbeats) + 5
        await gateway.until(lambda: len(gateway.heartbeats) >= wanted, deadline=60)
        assert await go_on(running) == 0
    assert gateway.output == "done"


async def test_a_process_that_was_superseded_while_computing_exits_76(gateway: testing.Gateway) -> None:
    async with process(gateway, COMPUTE) as running:
        gateway.take_over()
        await gateway.until(lambda: gateway.requests[-1].status == 409, deadline=60)
        requests = len(gateway.requests)
        assert await go_on(running) == 76
    # The event loop passed the refusal on before the result was sent.
    assert [request.route for request in gateway.requests[requests:]] in ([], ["result"])


async def test_a_child_of_fork_does_not_wait_for_the_thread(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(environment) as agent:
        thread = agent._session._backstop
        assert isinstance(thread, _heartbeat_thread.HeartbeatThread)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(os, "getpid", lambda: -1)
            await thread.stop()
        assert running() == [THREAD]
