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
async def agent_process(
    body: str, directory: Path, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process whose `main` is `body`, in local mode unless the environment names a gateway."""
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
        env={"PERDURE_TERMINATION_LOG": str(directory / "message"), "PATH": "", **environment},
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
async def test_the_exit_code_of_each_end(tmp_path: Path, body: str, code: int) -> None:
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
        # A second signal must not break into the saving.
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 75
    assert (tmp_path / ".perdure" / "local" / "1.checkpoint").read_bytes().endswith(b"\nsaved")


async def test_an_agent_that_saves_and_returns_asks_to_be_run_again_too(tmp_path: Path) -> None:
    body = """
        async with connect() as agent:
            try:
                say("ready")
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await agent.checkpoint(b"saved", label="interrupted")
                return
    """
    async with agent_process(body, tmp_path) as process:
        await terminate(process)
        assert await ended(process) == 75
    assert (tmp_path / ".perdure" / "local" / "1.checkpoint").read_bytes().endswith(b"\nsaved")
    assert not (tmp_path / "message").exists()


async def test_an_agent_that_finishes_in_time_has_succeeded(tmp_path: Path) -> None:
    body = """
        async with connect() as agent:
            try:
                say("ready")
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await agent.result({"n": 1})
    """
    async with agent_process(body, tmp_path) as process:
        await terminate(process)
        assert await ended(process) == 0
    assert (tmp_path / "message").read_text() == '{"n":1}'


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


#: No server listens at this address.
AWAY = "http://127.0.0.1:9"
IMPATIENT = "Options(retries=Retries(patience=0.05, first_delay=0.001, longest_delay=0.01), grace=0.2)"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("await agent.result({'n': 1})", 0, '{"n":1}'),
        # A message is whole or empty; after an empty one another attempt reports the result.
        ("await agent.result('x' * 4094)", 0, '"' + "x" * 4094 + '"'),
        ("await agent.result('x' * 4095)", 75, ""),
        ("await agent.result('ü' * 2048)", 75, ""),
        # The exit code is the same for an agent that swallows the exception.
        ("try: await agent.result('x' * 5000)\n        except Exception: pass", 75, ""),
        ("await agent.checkpoint(b'x')", 75, None),
        ("await agent.restore()", 75, None),
        ("await agent.checkpoint_soon(b'x')", 75, None),
        ("async with asyncio.TaskGroup() as g: g.create_task(agent.checkpoint(b'x'))", 75, None),
        # The failure outweighs the absence of the gateway.
        ("await agent.failure('no such model')", 1, "no such model"),
        ("raise ValueError('x')", 1, "ValueError: x"),
    ],
)
async def test_an_end_without_a_gateway(tmp_path: Path, body: str, code: int, message: str | None) -> None:
    (tmp_path / "input.json").write_text("{}")
    main = f"""
    async with connect(options={IMPATIENT}) as agent:
        {body}
    """
    environment = {"PERDURE_GATEWAY_URL": AWAY, "PERDURE_INPUT_FILE": str(tmp_path / "input.json")}
    async with agent_process(main, tmp_path, **environment) as process:
        assert await ended(process) == code
    left = tmp_path / "message"
    assert (left.read_text() if left.exists() else None) == message


async def test_a_result_at_the_last_moment_does_not_wait_beyond_the_grace_period(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text("{}")
    body = """
        async with connect(options=Options(grace=0.1)) as agent:
            try:
                say("ready")
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                await agent.result({"n": 1})
    """
    environment = {"PERDURE_GATEWAY_URL": AWAY, "PERDURE_INPUT_FILE": str(tmp_path / "input.json")}
    async with agent_process(body, tmp_path, **environment) as process:
        await terminate(process)
        # With the default patience it would take an hour.
        assert await ended(process) == 0
    assert (tmp_path / "message").read_text() == '{"n":1}'


@pytest.mark.parametrize(
    "body",
    [
        # A main coroutine that swallows the exception.
        "end.superseded.set()\nawait asyncio.sleep(60)",
        "end.superseded.set()",
        "end.superseded.set()\nraise ValueError('hidden')",
        "end.superseded.set()\nwhile True:\n    try: await asyncio.sleep(60)\n    except BaseException: pass",
    ],
    ids=["sleeps", "returns", "raises", "never ends"],
)
async def test_a_superseded_process_ends_whatever_main_does(tmp_path: Path, body: str) -> None:
    start = """
import perdure_agent._run
perdure_agent._run.STOPPING = 0.1
from perdure_agent import _exit_state
"""
    async with agent_process(f"{start}end = _exit_state.current.get()\n{body}", tmp_path) as process:
        assert await ended(process) == 76
