"""Agents in a process and a Python of their own, as they are in a cluster: see `agent_program.py`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from perdure_agent import Environment
from tests.bench.rig import Rig
from tests.bench.service import as_in_a_pod

_REPOSITORY = Path(__file__).resolve().parents[2]
#: Bytes of an answer, which has a time for each checkpoint.
_LONGEST_ANSWER = 2**24


class Agents:
    """A process with one agent for each environment that it was given."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, order: Any, *, within: float) -> dict[str, Any]:
        """Send one line, and return the answer. Raises RuntimeError, TimeoutError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        async with asyncio.timeout(within):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the agents' process has ended")
        answer: dict[str, Any] = orjson.loads(line)
        return answer


@asynccontextmanager
async def started(rig: Rig, environments: Sequence[Environment]) -> AsyncIterator[Agents]:
    """Agents that have connected. Raises RuntimeError, TimeoutError."""
    folder = rig.directory / "agent-program"
    shutil.copytree(_REPOSITORY / "sdk" / "perdure_agent", folder / "perdure_agent")
    program = shutil.copy(Path(__file__).with_name("agent_program.py"), folder)
    process = await asyncio.create_subprocess_exec(
        *as_in_a_pod(rig.product, account=None),
        *rig.product.command("python"),
        str(program),
        env={**rig.product.environment, "PYTHONPATH": str(folder)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_ANSWER,
    )
    agents = Agents(process)
    try:
        await agents.ask([_variables(each) for each in environments], within=60)
        yield agents
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _variables(environment: Environment) -> dict[str, str]:
    return {
        "PERDURE_GATEWAY_URL": environment.gateway_url or "",
        "PERDURE_NAMESPACE": environment.namespace,
        "PERDURE_WORKFLOW": environment.workflow,
        "PERDURE_TASK": environment.task,
        "PERDURE_STEP": environment.step,
        "PERDURE_ATTEMPT": str(environment.attempt),
        "PERDURE_TOKEN_FILE": str(environment.token_file),
        "PERDURE_INPUT_FILE": str(environment.input_file),
        "PERDURE_TERMINATION_LOG": str(environment.termination_log),
    }
