"""kubectl against the test run's API server, as a person would use it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apiserver import ApiServer

#: Seconds for one command; the longest command starts with an empty cache on a busy machine.
_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Said:
    """The result of a command."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.error
        return json.loads(self.out)


Kubectl = Callable[..., Awaitable[Said]]


@pytest.fixture
def kubectl(apiserver: ApiServer, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """`await kubectl("apply", objects=[…])` in the test's namespace; objects go in as `-f -`."""
    binary = apiserver.cluster.kubectl
    # Kept for the whole run: the discovery cache takes longest to fill.
    home = tmp_path_factory.getbasetemp() / "kubectl"
    home.mkdir(exist_ok=True)

    async def run(*arguments: str, objects: list[dict[str, Any]] | None = None) -> Said:
        return await _run(
            binary, home, [f"--kubeconfig={apiserver.kubeconfig}", f"-n={namespace}", *arguments], objects
        )

    return run


async def _run(binary: Path, home: Path, arguments: list[str], objects: list[dict[str, Any]] | None) -> Said:
    given = None
    if objects is not None:
        arguments = [*arguments, "-f", "-"]
        given = "\n".join(map(json.dumps, objects)).encode()
    process = await asyncio.create_subprocess_exec(
        binary,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
    )
    try:
        async with asyncio.timeout(_DEADLINE):
            out, error = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Said(process.returncode or 0, out.decode(), error.decode())
