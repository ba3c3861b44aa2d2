"""The agent's handle on its task."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from perdure_agent import ending, termination
from perdure_agent.checkpoints import Checkpoint, encode, encode_json
from perdure_agent.ending import Ending
from perdure_agent.environment import Environment
from perdure_agent.errors import AgentError, AgentFailure, GatewayError, GatewayUnavailable, Superseded
from perdure_agent.gateway import GatewayBackend
from perdure_agent.local import LocalBackend
from perdure_agent.transport import Retries, Transport

log = logging.getLogger("perdure_agent")

#: How long a crash is reported to an absent gateway when the pod's own status tells it as well. Seconds.
_CRASH_PATIENCE = 60.0
#: Seconds between signs of life while none gets through: progress waits for the first that does.
_AWAY_INTERVAL = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may tune. The defaults suit agents that work for minutes to days."""

    retries: Retries = field(default_factory=Retries)
    #: Seconds between signs of life.
    heartbeat_interval: float = 10.0


class Backend(Protocol):
    """Where a task's state lives: the gateway, or a file on a laptop."""

    async def read_input(self) -> Any: ...

    async def save(self, data: bytes, *, content_type: str, label: str | None) -> int: ...

    async def latest(self) -> Checkpoint | None: ...

    async def progress(self, *, percent: float | None, message: str | None) -> None: ...

    async def heartbeat(self) -> None: ...

    async def result(self, output: bytes, *, patience: float | None) -> None: ...

    async def failure(self, message: str, *, retryable: bool, patience: float | None) -> None: ...


class Agent:
    """One attempt at one task. Made by `connect`; not to be used from several event loops."""

    def __init__(
        self, backend: Backend, *, environment: Environment, options: Options, task_input: Any, end: Ending
    ) -> None:
        #: The task's input: any JSON value; {} if the step has none.
        self.input: Any = task_input
        self.namespace = environment.namespace
        #: Names of the Workflow and of the AgentTask.
        self.workflow = environment.workflow
        self.task = environment.task
        self.step = environment.step
        #: Number of this attempt, from 1.
        self.attempt = environment.attempt
        self._backend = backend
        self._options = options
        self._termination_log = environment.termination_log
        self._end = end
        self._reporting = False
        #: The last best-effort call got no answer: until a heartbeat does, progress is kept back.
        self._away = False
        self._unsent: tuple[float | None, str | None] | None = None

    @staticmethod
    def connect(
        environment: Environment | None = None, *, options: Options | None = None
    ) -> AbstractAsyncContextManager[Agent]:
        """The same as `perdure_agent.connect`."""
        return connect(environment, options=options)

    async def restore(self) -> Checkpoint | None:
        """The newest checkpoint of this task, saved by this attempt or an earlier one; None if there is none.

        Waits for an absent gateway rather than let the agent start afresh. Raises Superseded, GatewayError,
        GatewayUnavailable.
        """
        return await self._backend.latest()

    async def checkpoint(self, data: Any, *, label: str | None = None) -> int:
        """Save the agent's state: bytes (at most 64 MiB) as they are, anything else as JSON.

        Returns the checkpoint's sequence number once it survives the loss of every process. Waits for an
        absent gateway. Raises Superseded, GatewayError, GatewayUnavailable; TypeError or ValueError for what
        JSON cannot hold.
        """
        content, content_type = encode(data)
        return await self._backend.save(content, content_type=content_type, label=label)

    async def progress(self, percent: float | None = None, message: str | None = None) -> None:
        """Say how far the work is: `percent` from 0 to 100, and a short text.

        Never waits for an absent gateway: the newest progress goes with a later heartbeat. Raises Superseded,
        GatewayError; ValueError if there is nothing to say.
        """
        if percent is None and message is None:
            raise ValueError("progress needs a percent, a message or both")
        self._unsent = (percent, message)
        if not self._away:
            await self._sign_of_life()

    async def result(self, output: Any = None) -> None:
        """Report success with `output`: any JSON value, at most 1 MiB. Nothing can be written afterwards.

        The output is left in the container's termination message first, where it fits (4096 bytes), so that
        it survives even a gateway that stays away. Raises Superseded, GatewayError, GatewayUnavailable (only
        if the output did not fit), RuntimeError on a second report.
        """
        content = encode_json(output, field="output")
        self._begin_report()
        recorded = termination.write_output(self._termination_log, content)
        if recorded:
            self._end.settled = "succeeded"
        try:
            await self._backend.result(content, patience=self._options.retries.patience)
        except GatewayUnavailable:
            if not recorded:
                raise
            log.warning("the gateway stayed away; the result is left in the termination message")
        except GatewayError:
            self._take_back()
            raise
        self._end.settled = "succeeded"

    async def failure(self, message: str, *, retryable: bool = False) -> None:
        """Report failure. `retryable` allows another attempt within the step's retry limit.

        Raises as `result` does.
        """
        await self._fail(message, retryable=retryable, patience=self._options.retries.patience)

    async def _fail(self, message: str, *, retryable: bool, patience: float | None) -> None:
        self._begin_report()
        termination.write_failure(self._termination_log, message)
        self._end.settled = "failed"
        try:
            await self._backend.failure(message, retryable=retryable, patience=patience)
        except GatewayError:
            self._take_back()
            raise

    def _begin_report(self) -> None:
        if self._reporting:
            raise RuntimeError("this attempt has already reported its end: result or failure, once")
        self._reporting = True

    def _take_back(self) -> None:
        """The gateway refused the report: it does not count, and the termination message must not either."""
        termination.write(self._termination_log, b"")
        self._end.settled = None
        self._reporting = False

    async def _crashed(self, error: Exception) -> None:
        """Report an exception that leaves the context, unless the attempt's end is already told."""
        if self._reporting or self._end.interrupted or isinstance(error, (Superseded, GatewayUnavailable)):
            return
        if isinstance(error, AgentFailure):
            message, retryable = str(error), error.retryable
        else:
            # As with a plain container's exit code: another attempt may do better, within the retry limit.
            message, retryable = f"{type(error).__name__}: {error}", True
        patience = self._options.retries.patience
        short = _CRASH_PATIENCE if patience is None else min(patience, _CRASH_PATIENCE)
        try:
            await self._fail(message, retryable=retryable, patience=short)
        except Superseded:
            raise
        except AgentError as refused:
            # The exit code and the termination message tell it as well; the error itself is what matters.
            log.warning("the failure could not be reported: %s", refused)

    async def _sign_of_life(self) -> None:
        """Send progress that is not yet sent, or else a heartbeat. Failing to is no error."""
        sending, self._unsent = self._unsent, None
        try:
            if sending is None:
                await self._backend.heartbeat()
            else:
                await self._backend.progress(percent=sending[0], message=sending[1])
        except GatewayUnavailable as error:
            log.debug("no sign of life got through: %s", error)
            self._away = True
            # Unless a newer one came while this one was on its way.
            self._unsent = self._unsent or sending
        except asyncio.CancelledError:
            self._unsent = self._unsent or sending
            raise
        else:
            self._away = False

    async def _heartbeats(self) -> None:
        """Until cancelled. Raises Superseded, which ends the context: the work has become pointless."""
        while True:
            try:
                # A report is the last sign of life: a beat behind it would find the attempt closed, and be
                # told that it was superseded. The same goes for a beat that a report overtook.
                if not self._reporting:
                    await self._sign_of_life()
            except Superseded:
                if not self._reporting:
                    raise
            except AgentError as error:
                log.warning("sign of life refused: %s", error)
            interval = self._options.heartbeat_interval
            await asyncio.sleep(min(interval, _AWAY_INTERVAL) if self._away else interval)


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
                beats = group.create_task(agent._heartbeats(), name="perdure-heartbeats")
                try:
                    yield agent
                except Exception as raised:
                    # Carried around the group, which would wrap it.
                    error = raised
                    await agent._crashed(raised)
                finally:
                    beats.cancel()
        except BaseExceptionGroup as failed:
            # The body's own exceptions are caught above: this is the heartbeats or the report being told that
            # the attempt was superseded, and then nothing else matters.
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
