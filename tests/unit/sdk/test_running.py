"""Exit codes, from real processes and real signals."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest


@asynccontextmanager
async def agent_process(body: str, directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process whose `main` is `body`, in local mode."""
    program = (
        "import asyncio, sys\nimport perdure_agent\nfrom perdure_agent import *\n\n"
        "def say(text):\n    print(text, flush=True)\n\n"
        "async def main():\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\n\nrun(main)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        cwd=directory,
        env={"PERDURE_TERMINATION_LOG": str(directory / "message"), "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(20):
        return await process.wait()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("async with connect() as agent: await agent.result(1)", 0),
        ("async with connect() as agent: await agent.failure('no')", 1),
        ("raise ValueError('x')", 1),
        ("async with connect() as agent: raise AgentFailure('no')", 1),
        ("async with connect() as agent: raise Superseded('gone')", 76),
        ("async with asyncio.TaskGroup() as g: raise Superseded('gone')", 76),
        ("sys.exit(3)", 3),
    ],
)
async def test_the_exit_code_tells_how_it_ended(tmp_path: Path, body: str, code: int) -> None:
    async with agent_process(body, tmp_path) as process:
        assert await ended(process) == code


async def terminate(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, once the agent has said that it is ready for it."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)


async def test_sigterm_lets_the_agent_save_and_asks_to_be_run_again(tmp_path: Path) -> None:
    body = """
        async with connect() as agent:
            try:
                say("ready")
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                await agent.checkpoint(b"saved")
    """
    async with agent_process(body, tmp_path) as process:
        await terminate(process)
        # Once more: it must not break into the saving.
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 75
    assert (tmp_path / ".perdure" / "local.checkpoint").read_bytes().endswith(b"\nsaved")


async def test_sigterm_without_a_handler_of_the_agent_s_own(tmp_path: Path) -> None:
    async with agent_process("say('ready'); await asyncio.sleep(30)", tmp_path) as process:
        await terminate(process)
        assert await ended(process) == 75


async def test_an_error_caused_by_the_interruption_is_no_failure(tmp_path: Path) -> None:
    body = """
        async with connect() as agent:
            try:
                say("ready")
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                raise ConnectionError("my model hung up on me")
    """
    async with agent_process(body, tmp_path) as process:
        await terminate(process)
        assert await ended(process) == 75
    assert not (tmp_path / "message").exists()


async def test_sigterm_after_the_result_was_left_does_not_ask_for_more_work(tmp_path: Path) -> None:
    body = """
        async with connect() as agent:
            await agent.result({"n": 1})
            say("ready")
            await asyncio.sleep(30)
    """
    async with agent_process(body, tmp_path) as process:
        await process.stdout.readline()  # type: ignore[union-attr]
        await terminate(process)
        assert await ended(process) == 0
    assert (tmp_path / "message").read_text() == '{"n":1}'
