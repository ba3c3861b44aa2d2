"""The agent's handle on its task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from perdure_agent import termination
from perdure_agent.backend import Backend, Options
from perdure_agent.checkpoints import Checkpoint, CheckpointInfo, RestoredFile, Which, encode_json
from perdure_agent.ending import Ending
from perdure_agent.environment import Environment
from perdure_agent.errors import AgentError, AgentFailure, GatewayError, GatewayUnavailable, Superseded, holds
from perdure_agent.payload import FileSink, MemorySink, loaded, prepare
from perdure_agent.restoring import load
from perdure_agent.saving import Saver

log = logging.getLogger("perdure_agent")

#: How long a crash is reported to an absent gateway when the pod's own status tells it as well. Seconds.
_CRASH_PATIENCE = 60.0
#: Seconds between signs of life while none gets through: progress waits for the first that does.
_AWAY_INTERVAL = 2.0
#: Seconds for the body to leave by itself after one of its calls has raised Superseded.
_TO_NOTICE = 1.0


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
        #: The model that the manifest names (`PERDURE_MODEL`); None if it names none.
        self.model = environment.model
        #: Why the last attempt that failed did; None if none has.
        self.last_failure = environment.last_failure
        self._backend = backend
        self._saver = Saver(backend.save, retries=options.retries)
        self._options = options
        self._termination_log = environment.termination_log
        self._end = end
        self._reporting = False
        #: The gateway has acknowledged it.
        self._reported = False
        self._superseded: Superseded | None = None
        #: The last best-effort call got no answer: until a heartbeat does, progress is kept back.
        self._away = False
        self._unsent: tuple[float | None, str | None] | None = None

    @staticmethod
    def connect(
        environment: Environment | None = None, *, options: Options | None = None
    ) -> AbstractAsyncContextManager[Agent]:
        """The same as `perdure_agent.connect`."""
        from perdure_agent.connecting import connect

        return connect(environment, options=options)

    async def restore(
        self, *, sequence: int | None = None, label: str | None = None, fallback: bool = False
    ) -> Checkpoint | None:
        """The newest recoverable checkpoint of this task, whichever attempt saved it; None if there is none.

        `label`: the newest recoverable one of that label. `sequence`: exactly that one. Waits for an absent
        gateway rather than let the agent start afresh. If it is damaged, DamagedCheckpoint is raised; with
        `fallback` the next older recoverable one is taken, and `skipped` tells of those passed over. Raises
        Superseded, GatewayError, GatewayUnavailable.
        """
        which = _which(sequence, label)
        sink = MemorySink()
        with self._calling():
            found, skipped = await load(
                self._backend, which, sink, fallback=fallback, patience=self._patience
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
        """The same into a file, which is replaced in one step and left as it is if there is no checkpoint."""
        which = _which(sequence, label)
        with self._calling(), FileSink(Path(path)) as sink:
            found, skipped = await load(
                self._backend, which, sink, fallback=fallback, patience=self._patience
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
        """What is kept of this task's checkpoints, newest first. Raises as `restore` does."""
        with self._calling():
            return await self._backend.list(label, patience=self._patience())

    async def checkpoint(
        self,
        data: Any,
        *,
        label: str | None = None,
        recoverable: bool = True,
        content_type: str | None = None,
    ) -> int:
        """Save the agent's state: at most 64 MiB.

        Bytes are saved as they are, and so is what a `Path`, a file opened for reading bytes (from its
        position on) or an asynchronous iterator of bytes holds; anything else as JSON. Not `recoverable`:
        kept and listed, but no attempt goes on from it unless it asks for its number. Returns the sequence
        number once it survives the loss of every process. Waits for an absent gateway. Raises Superseded,
        GatewayError, GatewayUnavailable; TypeError or ValueError for what JSON cannot hold.
        """
        async with AsyncExitStack() as stack:
            payload = await prepare(data, stack, content_type=content_type)
            with self._calling():
                return await self._saver.save(
                    payload, label=label, recoverable=recoverable, patience=self._patience()
                )

    async def checkpoint_soon(
        self,
        data: Any,
        *,
        label: str | None = None,
        recoverable: bool = True,
        content_type: str | None = None,
    ) -> None:
        """The same without waiting for the gateway: it is sent beside the agent's work.

        One is kept in memory, the newest: what was not sent by then is dropped. It is certain to be saved
        only when `flush` has returned; leaving the context waits for it, unless a result was given. Raises
        Superseded; GatewayError if an earlier one was refused.
        """
        async with AsyncExitStack() as stack:
            payload = await loaded(await prepare(data, stack, content_type=content_type))
        with self._calling():
            self._saver.spool(payload, label=label, recoverable=recoverable)

    async def flush(self) -> None:
        """Wait until the last `checkpoint_soon` is durable. Raises as `checkpoint` does."""
        with self._calling():
            await self._saver.flush(patience=self._patience())

    async def progress(self, percent: float | None = None, message: str | None = None) -> None:
        """Say how far the work is: `percent` from 0 to 100, and a short text.

        Never waits for an absent gateway: the newest progress goes with a later heartbeat. Raises Superseded,
        GatewayError; ValueError if there is nothing to say.
        """
        if percent is None and message is None:
            raise ValueError("progress needs a percent, a message or both")
        self._unsent = (percent, message)
        with self._calling():
            if not self._away:
                await self._sign_of_life()

    async def result(self, output: Any = None) -> None:
        """Report success with `output`: any JSON value, at most 1 MiB. Nothing can be written afterwards.

        The output is left in the container's termination message first, where it fits (4096 bytes), so that
        it survives even a gateway that stays away: then this returns after `Options.result_patience`. One
        that does not fit waits as long as any call, and then raises GatewayUnavailable: it may be reported
        again, and if it is not, `run` exits with 75, so that another attempt brings it. Raises Superseded,
        GatewayError, RuntimeError on a second report.
        """
        content = encode_json(output, field="output")
        self._begin_report()
        recorded = termination.write_output(self._termination_log, content)
        patience = self._options.retries.patience
        if recorded:
            self._end.settled = "succeeded"
            short = self._options.result_patience
            patience = short if patience is None else min(patience, short)
        try:
            with self._calling():
                await self._backend.result(content, patience=self._within(patience))
        except GatewayUnavailable:
            if not recorded:
                self._end.unsent = True
                self._reporting = False
                raise
            log.warning("the gateway stayed away; the result is left in the termination message")
        except (GatewayError, Superseded):
            self._take_back()
            raise
        self._reported = True
        self._end.settled = "succeeded"
        self._end.unsent = False
        # What it says is in the result.
        self._saver.drop()

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
            with self._calling():
                await self._backend.failure(message, retryable=retryable, patience=self._within(patience))
        except (GatewayError, Superseded):
            self._take_back()
            raise
        self._reported = True

    def _patience(self) -> float | None:
        """How long a call may wait."""
        return self._within(self._options.retries.patience)

    def _within(self, wanted: float | None) -> float | None:
        """As long as it is wanted, and not beyond the end of the pod's grace period."""
        return self._end.patience(wanted, grace=self._options.grace)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Around each call: once one was told that the attempt is superseded, no other is made."""
        if self._superseded is not None:
            raise Superseded(*self._superseded.args)
        try:
            yield
        except Superseded as error:
            # Behind an end that was taken note of, it only says that the attempt is closed.
            if not self._reported:
                self._stop(error)
            raise

    def _stop(self, error: Superseded) -> None:
        self._superseded = error
        self._saver.drop()
        self._end.superseded.set()

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
        if self._reporting or self._end.interrupted or holds(error, Superseded, GatewayUnavailable):
            return
        if isinstance(error, AgentFailure):
            message, retryable = str(error), error.retryable
        else:
            # As with a plain container's exit code: another attempt may do better, within the retry limit.
            message, retryable = f"{type(error).__name__}: {error}", True
        patience = self._options.retries.patience
        short = _CRASH_PATIENCE if patience is None else min(patience, _CRASH_PATIENCE)
        with suppress(AgentError):
            # Before the report, which closes the attempt.
            await self._saver.flush(patience=self._within(short))
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
            except Superseded as error:
                if not self._reporting:
                    self._stop(error)
                    raise
            except AgentError as error:
                log.warning("sign of life refused: %s", error)
            interval = self._options.heartbeat_interval
            await asyncio.sleep(min(interval, _AWAY_INTERVAL) if self._away else interval)

    async def _send_spooled(self) -> None:
        """Until cancelled, or an end was reported. Raises Superseded, as the heartbeats do."""
        try:
            await self._saver.run()
        except Superseded as error:
            if not self._reporting:
                self._stop(error)
                raise

    async def _watch(self) -> None:
        """Raises Superseded after one of the body's calls did: whoever catches it must not go on working."""
        await self._end.superseded.wait()
        await asyncio.sleep(_TO_NOTICE)
        raise Superseded(*(self._superseded.args if self._superseded is not None else ()))

    async def _leave(self) -> None:
        """The body has ended: what it wanted saved is saved, and what it overheard is said again."""
        if not self._reporting:
            await self.flush()
        if self._superseded is not None:
            raise Superseded(*self._superseded.args)

    async def _leave_cancelled(self) -> None:
        if self._superseded is None and not self._reporting:
            with suppress(AgentError):
                await self._saver.flush(patience=self._within(self._options.grace))


def _which(sequence: int | None, label: str | None) -> Which:
    if sequence is not None and label is not None:
        raise ValueError("restore takes a sequence or a label, not both")
    return Which(sequence=sequence, label=label)
