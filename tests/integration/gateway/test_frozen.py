"""Agents that are frozen, replaced, and thawed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.domain.records import RunState
from perdure.ledger import AgentSession, Ledger
from perdure_agent import Environment
from tests.integration.gateway.conftest import KEY, AgentOf
from tests.integration.ledger.samples import at, superseded
from tests.support.waiting import until

PROGRAM = """
import asyncio, os, random
from pathlib import Path
import perdure_agent

async def main():
    # Without heartbeats: only the calls of the work below.
    options = perdure_agent.Options(heartbeat_interval=3600)
    async with perdure_agent.connect(options=options) as agent:
        while True:
            {work}

perdure_agent.run(main)
"""

WORKS = {
    "small checkpoints": "await agent.checkpoint(random.randbytes(100))",
    "large checkpoints": "await agent.checkpoint(random.randbytes(8_000_000))",
    "spooled checkpoints": "await agent.checkpoint_soon(random.randbytes(100)); await agent.flush()",
    "progress": "await agent.checkpoint(b'x'); await agent.progress(random.random())",
    "small checkpoints with every error ignored": """
            try:
                await agent.checkpoint(random.randbytes(100))
            except Exception:
                pass
            await asyncio.sleep(0.001)
""".strip(),
    "a result too large for the termination message": """
            for _ in range(3):
                await agent.checkpoint(b'x')
            while not Path(os.environ["REPLACED_FILE"]).exists():
                await asyncio.sleep(0.01)
            await agent.result('x' * 100_000)
            return
""".strip(),
}


@asynccontextmanager
async def process_of(
    environment: Environment, work: str, *, replaced: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One agent that runs `work`. The file `replaced` exists once the test has replaced the agent."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM.format(work=work),
        env={
            "PATH": "",
            "PERDURE_GATEWAY_URL": str(environment.gateway_url),
            "PERDURE_TOKEN_FILE": str(environment.token_file),
            "PERDURE_INPUT_FILE": str(environment.input_file),
            "PERDURE_TERMINATION_LOG": str(environment.termination_log),
            "REPLACED_FILE": str(replaced),
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def stopped(process: asyncio.subprocess.Process) -> bool:
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


async def remains(ledger: Ledger, run: RunState) -> tuple[Any, ...]:
    return (
        await ledger.database.fetch("select sequence, attempt, sha256 from perdure.checkpoint order by 1"),
        await ledger.events(run.run.uid),
        await ledger.updates(run.run.uid, since=None),
        await ledger.load(run.run.uid),
    )


async def session_of_pod(ledger: Ledger, pod_uid: str | None) -> AgentSession:
    assert pod_uid is not None
    session = await ledger.attempt_for_pod("team-a", pod_uid)
    assert session is not None
    return session


@pytest.mark.parametrize("name", WORKS)
async def test_an_agent_that_thaws_after_its_replacement_changes_nothing(
    ledger: Ledger,
    run: RunState,
    epoch: int,
    gateway: str,
    agent_of: AgentOf,
    tmp_path: Path,
    name: str,
) -> None:
    environment = agent_of(gateway, run.attempts[KEY].pod_uid)
    replaced = tmp_path / "replaced"
    async with process_of(environment, WORKS[name], replaced=replaced) as process:

        async def has_running_pod() -> bool:
            session = await session_of_pod(ledger, run.attempts[KEY].pod_uid)
            return (session.checkpoint_sequence or 0) >= 3

        await until(has_running_pod)
        process.send_signal(signal.SIGSTOP)
        await until(lambda: stopped(process))
        new = await superseded(ledger, run, epoch)
        session = await session_of_pod(ledger, new.pod_uid)
        sequence = await ledger.write_checkpoint(session, b"new", content_type="text/plain", now=at(61))
        before = await remains(ledger, run)

        replaced.touch()
        process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(30):
            assert await process.wait() == 76
    assert await remains(ledger, run) == before
    latest = await ledger.latest_checkpoint(session)
    assert latest is not None
    assert (latest.sequence, latest.attempt, latest.data) == (sequence, 2, b"new")
    left = environment.termination_log
    assert not left.exists() or left.read_text() == ""


async def test_an_agent_that_thaws_before_its_replacement_continues(
    ledger: Ledger, run: RunState, gateway: str, agent_of: AgentOf, tmp_path: Path
) -> None:
    """Silence is no evidence of an agent's death."""
    environment = agent_of(gateway, run.attempts[KEY].pod_uid)
    async with process_of(environment, WORKS["small checkpoints"], replaced=tmp_path / "never") as process:

        async def reached(least: int) -> int:
            found = (await session_of_pod(ledger, run.attempts[KEY].pod_uid)).checkpoint_sequence or 0
            return found if found >= least else 0

        await until(lambda: reached(3))
        process.send_signal(signal.SIGSTOP)
        await until(lambda: stopped(process))
        here = await reached(1)
        process.send_signal(signal.SIGCONT)
        await until(lambda: reached(here + 3))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 75
