"""The agent's handle on its task: the calls that the body of `connect` makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from perdure_agent._checkpoints import Checkpoint, CheckpointInfo, RestoredFile, Which, encode_json
from perdure_agent._connect import open_session
from perdure_agent._environment import Environment
from perdure_agent._options import Options
from perdure_agent._payload import FileSink, MemorySink, loaded, prepare
from perdure_agent._restore import load
from perdure_agent._session import Session


class Agent:
    """One attempt at one task, opened by `connect`. An agent belongs to one event loop."""

    def __init__(self, session: Session) -> None:
        environment = session.environment
        #: The task's input: any JSON value; {} if the step has none.
        self.input: Any = session.task_input
        self.namespace = environment.namespace
        #: Names of the Workflow and of the AgentTask.
        self.workflow = environment.workflow
        self.task = environment.task
        self.step = environment.step
        #: Number of this attempt, from 1.
        self.attempt = environment.attempt
        #: The model that the manifest names (`PERDURE_MODEL`); None if it names none.
        self.model = environment.model
        #: Why the last attempt that failed did; None if none has.
        self.last_failure = environment.last_failure
        self._session = session

    @staticmethod
    def connect(
        environment: Environment | None = None, *, options: Options | None = None
    ) -> AbstractAsyncContextManager[Agent]:
        """The same as `perdure_agent.connect`."""
        return connect(environment, options=options)

    async def restore(
        self, *, sequence: int | None = None, label: str | None = None, fallback: bool = False
    ) -> Checkpoint | None:
        """The newest recoverable checkpoint of this task, whichever attempt saved it; None if there is none.

        `label`: the newest recoverable one of that label. `sequence`: exactly that one. While the gateway is
        away the call waits for `Options.retries.patience` seconds, since an agent that started afresh would
        repeat its work. A damaged checkpoint raises DamagedCheckpoint; with `fallback` the next older
        recoverable checkpoint that is sound is taken, and `skipped` lists the damaged ones. Raises
        Superseded, GatewayError, GatewayUnavailable; ValueError for a sequence together with a label.
        """
        which = _which(sequence, label)
        sink = MemorySink()
        session = self._session
        with session.calling():
            found, skipped = await load(
                session.backend, which, sink, fallback=fallback, patience=session.patience
            )
        if found is None:
            return None
        return Checkpoint(
            sequence=found.sequence,
            label=found.label,
            data=sink.data(),
            content_type=found.content_type,
            skipped=skipped,
        )

    async def restore_to(
        self,
        path: str | PathLike[str],
        *,
        sequence: int | None = None,
        label: str | None = None,
        fallback: bool = False,
    ) -> RestoredFile | None:
        """The same into a file, which is replaced in one step and left as it is if there is no checkpoint.

        Raises as `restore` does; OSError if the file cannot be written.
        """
        which = _which(sequence, label)
        session = self._session
        with session.calling(), FileSink(Path(path)) as sink:
            found, skipped = await load(
                session.backend, which, sink, fallback=fallback, patience=session.patience
            )
            if found is None:
                return None
            sink.keep()
        return RestoredFile(
            sequence=found.sequence,
            label=found.label,
            path=Path(path),
            content_type=found.content_type,
            skipped=skipped,
        )

    async def checkpoints(self, *, label: str | None = None) -> list[CheckpointInfo]:
        """The task's kept checkpoints, newest first, of one label or all. Raises as `restore` does."""
        session = self._session
        with session.calling():
            return await session.backend.list(label, patience=session.patience())

    async def checkpoint(
        self,
        data: Any,
        *,
        label: str | None = None,
        recoverable: bool = True,
        content_type: str | None = None,
    ) -> int:
        """Save the agent's state: at most 64 MiB.

        Bytes are saved as they are, and so are the contents of a `Path`, of a file opened for reading bytes
        (from its position on) and of an asynchronous iterator of bytes; anything else as JSON. A checkpoint
        that is not `recoverable` is kept and listed, but no attempt goes on from it unless it asks for its
        number. Returns the sequence number, from 1, once the checkpoint survives the loss of every process.
        Waits up to `Options.retries.patience` seconds for an absent gateway. Raises Superseded, GatewayError,
        GatewayUnavailable; TypeError or ValueError for what JSON cannot hold; OSError for an unreadable file.
        """
        session = self._session
        async with AsyncExitStack() as stack:
            payload = await prepare(data, stack, content_type=content_type)
            with session.calling():
                return await session.writer.save(
                    payload, label=label, recoverable=recoverable, patience=session.patience()
                )

    async def checkpoint_soon(
        self,
        data: Any,
        *,
        label: str | None = None,
        recoverable: bool = True,
        content_type: str | None = None,
    ) -> None:
        """The same without waiting for the gateway: the checkpoint is sent while the agent works on.

        Memory holds one unsent checkpoint, the newest; an older one that was not sent by then is dropped. The
        checkpoint is certain to be saved only when `flush` has returned. Leaving the context flushes, unless
        a result was reported. Raises Superseded; GatewayError if an earlier spooled checkpoint was refused.
        """
        async with AsyncExitStack() as stack:
            payload = await loaded(await prepare(data, stack, content_type=content_type))
        with self._session.calling():
            self._session.writer.spool(payload, label=label, recoverable=recoverable)

    async def flush(self) -> None:
        """Wait until the last `checkpoint_soon` is durable. Raises as `checkpoint` does."""
        await self._session.flush()

    async def progress(self, percent: float | None = None, message: str | None = None) -> None:
        """Report how far the work is: `percent` from 0 to 100, and a short text.

        Never waits for an absent gateway: the newest progress goes with a later heartbeat. Raises Superseded,
        GatewayError; ValueError if both are missing.
        """
        if percent is None and message is None:
            raise ValueError("progress needs a percent, a message or both")
        await self._session.progress(percent, message)

    async def result(self, output: Any = None) -> None:
        """Report success with `output`: any JSON value, at most 1 MiB. Nothing can be written afterwards.

        An output of at most 4096 bytes of JSON is left in the container's termination message first, where it
        survives even a gateway that stays away: the call then returns after `Options.result_patience`
        seconds. A larger output waits as long as any call, and then raises GatewayUnavailable. The agent may
        report it again; otherwise `run` exits with 75, so that another attempt reports it. Raises Superseded,
        GatewayError; RuntimeError on a second report; TypeError or ValueError for what JSON cannot hold.
        """
        await self._session.result(encode_json(output, field="output"))

    async def failure(self, message: str, *, retryable: bool = False) -> None:
        """Report failure. `retryable` allows another attempt within the step's retry limit.

        Raises as `result` does.
        """
        await self._session.failure(message, retryable=retryable)


@asynccontextmanager
async def connect(
    environment: Environment | None = None, *, options: Options | None = None
) -> AsyncIterator[Agent]:
    """The agent of this process, as the environment describes it; with heartbeats while it is open.

    Without `PERDURE_GATEWAY_URL` the agent works in local mode. Leaving without a result and without an
    exception reports nothing: the exit code decides. An exception is reported as a failure and raised again.
    If another attempt takes over, the body is cancelled and Superseded is raised. Raises ValueError for an
    environment or an input that makes no sense.
    """
    async with open_session(environment, options) as session:
        yield Agent(session)


def _which(sequence: int | None, label: str | None) -> Which:
    if sequence is not None and label is not None:
        raise ValueError("restore takes a sequence or a label, not both")
    return Which(sequence=sequence, label=label)
