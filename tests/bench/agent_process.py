"""Agents in a process and a Python of their own, as they are in a cluster: see `agent_program.py`."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from perdure_agent import Environment
from tests.bench.asked import Asked, asked
from tests.bench.rig import Rig
from tests.bench.service import as_in_a_pod

_REPOSITORY = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def started(rig: Rig, environments: Sequence[Environment]) -> AsyncIterator[Asked]:
    """Agents that have connected. Raises RuntimeError, TimeoutError."""
    folder = rig.directory / "agent-program"
    shutil.copytree(_REPOSITORY / "sdk" / "perdure_agent", folder / "perdure_agent")
    program = shutil.copy(Path(__file__).with_name("agent_program.py"), folder)
    command = [*as_in_a_pod(rig.product, account=None), *rig.product.command("python"), str(program)]
    async with asked(command, {**rig.product.environment, "PYTHONPATH": str(folder)}) as agents:
        await agents.ask([_variables(each) for each in environments], within=60)
        yield agents


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
