"""From the environment to an open session: the backend that it names, and the task's input."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from perdure_agent import _exit_state, _runtime
from perdure_agent._backend import Backend
from perdure_agent._backstop import OpenBackstop, no_backstop
from perdure_agent._environment import Environment
from perdure_agent._exit_state import ExitState
from perdure_agent._gateway_backend import GatewayBackend
from perdure_agent._local_backend import LocalBackend
from perdure_agent._options import Options
from perdure_agent._runtime import Runtime
from perdure_agent._session import Session
from perdure_agent._transport import Transport


@asynccontextmanager
async def open_session(environment: Environment | None, options: Options | None) -> AsyncIterator[Session]:
    """The session of this process. Without a gateway's URL its backend is a local folder.

    Raises ValueError for an environment or an input that makes no sense; otherwise as `Session.opened`.
    """
    runtime = _runtime.current.get()
    environment = environment or runtime.environment or Environment.read()
    options = options or Options()
    async with AsyncExitStack() as stack:
        backend = await _open_backend(environment, options, runtime, stack)
        with runtime.clock.waiting():
            task_input = await _read_input(environment.input_file, backend)
        session = Session(
            backend,
            environment=environment,
            options=options,
            task_input=task_input,
            exit_state=_exit_state.current.get() or ExitState(clock=runtime.clock),
            clock=runtime.clock,
            open_backstop=_backstop_of(environment, options, runtime),
        )
        await stack.enter_async_context(session.opened())
        yield session


async def _open_backend(
    environment: Environment, options: Options, runtime: Runtime, stack: AsyncExitStack
) -> Backend:
    if environment.gateway_url is None:
        return LocalBackend(
            directory=environment.local_directory,
            task=environment.task,
            input_json=environment.input_json,
        )
    transport = Transport(
        await stack.enter_async_context(runtime.open_client(environment)),
        url=environment.gateway_url,
        token_file=environment.token_file,
        retries=options.retries,
        clock=runtime.clock,
    )
    return GatewayBackend(transport, patience=options.retries.patience)


def _backstop_of(environment: Environment, options: Options, runtime: Runtime) -> OpenBackstop:
    if environment.gateway_url is None or not options.heartbeat_thread:
        return no_backstop
    return runtime.open_backstop


async def _read_input(file: Path | None, backend: Backend) -> Any:
    """Content of the mounted file; where that is missing or empty, the backend's input."""
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
