"""Making an agent, and what runs beside its work for as long as it is open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from perdure_agent import ending
from perdure_agent.agent import Agent
from perdure_agent.backend import Backend, Options
from perdure_agent.ending import Ending
from perdure_agent.environment import Environment
from perdure_agent.errors import Superseded
from perdure_agent.gateway import GatewayBackend
from perdure_agent.local import LocalBackend
from perdure_agent.transport import Transport


@asynccontextmanager
async def connect(
    environment: Environment | None = None, *, options: Options | None = None
) -> AsyncIterator[Agent]:
    """The agent of this process, as the environment describes it; with heartbeats while it is open.

    Without `PERDURE_GATEWAY_URL` it works in local mode. Leaving without a result and without an exception
    reports nothing: the exit code decides. An exception is reported as a failure and goes on. If another
    attempt takes over, the body is cancelled and Superseded is raised. Raises ValueError for an environment
    or an input that makes no sense.
    """
    environment = environment or Environment.read()
    options = options or Options()
    async with AsyncExitStack() as stack:
        backend: Backend
        if environment.gateway_url is None:
            backend = LocalBackend(
                directory=environment.local_directory,
                task=environment.task,
                input_json=environment.input_json,
            )
        else:
            session = await stack.enter_async_context(_session())
            transport = Transport(
                session,
                url=environment.gateway_url,
                token_file=environment.token_file,
                retries=options.retries,
            )
            backend = GatewayBackend(transport, patience=options.retries.patience)
        agent = Agent(
            backend,
            environment=environment,
            options=options,
            task_input=await _read_input(environment.input_file, backend),
            end=ending.current.get() or Ending(),
        )
        error: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(agent._heartbeats(), name="perdure-heartbeats"),
                    group.create_task(agent._send_spooled(), name="perdure-spool"),
                    group.create_task(agent._watch(), name="perdure-watch"),
                ]
                try:
                    yield agent
                    await agent._leave()
                except asyncio.CancelledError:
                    await agent._leave_cancelled()
                    raise
                except Exception as raised:
                    # Carried around the group, which would wrap it.
                    error = raised
                    await agent._crashed(raised)
                finally:
                    for task in beside:
                        task.cancel()
        except BaseExceptionGroup as failed:
            # The body's own exceptions are caught above: this is what runs beside it, or the report, being
            # told that the attempt was superseded, and then nothing else matters.
            raise _superseded_in(failed) or failed from None
        if error is not None:
            raise error


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"User-Agent": "perdure-agent"}, auto_decompress=False)


def _superseded_in(group: BaseExceptionGroup[BaseException]) -> Superseded | None:
    for error in group.exceptions:
        found = _superseded_in(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, Superseded):
            return found
    return None


async def _read_input(file: Path | None, backend: Backend) -> Any:
    """The mounted file's content; without one, or when it is empty, what the backend says."""
    content = None if file is None else _content(file)
    if not content:
        return await backend.read_input()
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"the input in {file} is not JSON: {error}") from error


def _content(file: Path) -> str | None:
    with suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8").strip()
    return None
