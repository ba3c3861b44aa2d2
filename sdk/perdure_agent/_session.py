"""One attempt's session with its backend: reports, signs of life, and the end once it is superseded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from perdure_agent import _termination_message
from perdure_agent._backend import Backend
from perdure_agent._backstop import AWAY_INTERVAL, Backstop, BackstopOrder, OpenBackstop
from perdure_agent._checkpoint_writer import CheckpointWriter
from perdure_agent._clock import Clock
from perdure_agent._environment import Environment
from perdure_agent._exit_state import ExitState
from perdure_agent._options import Options
from perdure_agent.errors import (
    AgentError,
    AgentFailure,
    GatewayError,
    GatewayUnavailable,
    Superseded,
    contains,
)

log = logging.getLogger("perdure_agent")

#: Seconds that a crash report waits for an absent gateway: the pod's own status carries the same failure.
_CRASH_PATIENCE = 60.0
#: Seconds that the body has to end by itself after one of its calls raised Superseded.
_SUPERSEDED_GRACE = 1.0


class Session:
    """Reports, heartbeats and checkpoint order of one attempt, from `opened` until its body ends."""

    def __init__(
        self,
        backend: Backend,
        *,
        environment: Environment,
        options: Options,
        task_input: Any,
        exit_state: ExitState,
        clock: Clock,
        open_backstop: OpenBackstop,
    ) -> None:
        self.backend = backend
        self.environment = environment
        self.options = options
        self.task_input = task_input
        self.writer = CheckpointWriter(backend.save, retries=options.retries, clock=clock)
        self._clock = clock
        self._open_backstop = open_backstop
        self._backstop: Backstop | None = None
        self._exit_state = exit_state
        self._termination_log = environment.termination_log
        self._reporting = False
        #: The gateway has acknowledged the report.
        self._reported = False
        self._superseded: Superseded | None = None
        #: The last best-effort call was not answered: progress is held back until a heartbeat is.
        self._away = False
        self._unsent: tuple[float | None, str | None] | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Heartbeats and spooled checkpoints run for as long as the body does.

        An exception of the body is reported and raised again, as it is. Raises Superseded in its place once
        another attempt has taken over.
        """
        error: Exception | None = None
        try:
            async with self._open_backstop(self._backstop_order()) as backstop, asyncio.TaskGroup() as group:
                self._backstop = backstop
                background = [
                    group.create_task(self._send_heartbeats(), name="perdure-heartbeats"),
                    group.create_task(self._send_spooled(), name="perdure-spool"),
                    group.create_task(self._stop_superseded_body(), name="perdure-watch"),
                ]
                try:
                    yield
                    with self._clock.waiting():
                        await self._leave()
                except asyncio.CancelledError:
                    with self._clock.waiting():
                        await self._leave_cancelled()
                    raise
                except Exception as raised:
                    # The task group would wrap the body's exception: the exception passes around the group.
                    error = raised
                    with self._clock.waiting():
                        await self._report_crash(raised)
                finally:
                    for task in background:
                        task.cancel()
        except BaseExceptionGroup as failed:
            # The body's own exceptions are caught above. The rest comes from the background tasks or from the
            # crash report, and a Superseded among them outweighs all others.
            raise _superseded_in(failed) or failed from None
        if error is not None:
            raise error

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Bracket around each call of the body: after the first Superseded no further call is sent."""
        if self._superseded is not None:
            raise Superseded(*self._superseded.args)
        try:
            with self._clock.waiting():
                yield
        except Superseded as error:
            # After an acknowledged report, 409 says only that the operator has closed the attempt.
            if not self._reported:
                self._stop(error)
            raise

    def patience(self) -> float | None:
        """Seconds that a call may wait; None without bound."""
        return self._within(self.options.retries.patience)

    async def flush(self) -> None:
        """Wait until no checkpoint is spooled. Raises Superseded, GatewayError, GatewayUnavailable."""
        with self.calling():
            await self.writer.flush(patience=self.patience())

    async def progress(self, percent: float | None, message: str | None) -> None:
        """Send progress now, or with a later heartbeat while the gateway is away."""
        self._unsent = (percent, message)
        with self.calling():
            if not self._away:
                await self._sign_of_life()

    async def result(self, content: bytes) -> None:
        """Report success with `content`, compact JSON. Raises as `Agent.result` does."""
        self._begin_report()
        recorded = _termination_message.write_output(self._termination_log, content)
        patience = self.options.retries.patience
        if recorded:
            self._exit_state.settled = "succeeded"
            short = self.options.result_patience
            patience = short if patience is None else min(patience, short)
        try:
            with self.calling():
                await self.backend.result(content, patience=self._within(patience))
        except GatewayUnavailable:
            if not recorded:
                self._exit_state.unsent = True
                self._reporting = False
                raise
            log.warning("the gateway stayed away; the result is left in the termination message")
        except (GatewayError, Superseded):
            self._take_back()
            raise
        self._reported = True
        self._exit_state.settled = "succeeded"
        self._exit_state.unsent = False
        # The result covers whatever the spooled checkpoint would have preserved.
        self.writer.drop()

    async def failure(self, message: str, *, retryable: bool) -> None:
        """Report failure. Raises as `result` does."""
        await self._fail(message, retryable=retryable, patience=self.options.retries.patience)

    async def _fail(self, message: str, *, retryable: bool, patience: float | None) -> None:
        self._begin_report()
        _termination_message.write_failure(self._termination_log, message)
        self._exit_state.settled = "failed"
        try:
            with self.calling():
                await self.backend.failure(message, retryable=retryable, patience=self._within(patience))
        except (GatewayError, Superseded):
            self._take_back()
            raise
        self._reported = True

    def _within(self, wanted: float | None) -> float | None:
        """`wanted` seconds, but not beyond the end of the pod's grace period."""
        return self._exit_state.patience(wanted, grace=self.options.grace)

    def _stop(self, error: Superseded) -> None:
        self._superseded = error
        self.writer.drop()
        self._exit_state.superseded.set()

    def _backstop_order(self) -> BackstopOrder:
        return BackstopOrder(
            environment=self.environment,
            interval=self.options.heartbeat_interval,
            reporting=lambda: self._reporting,
            on_superseded=self._on_superseded,
        )

    def _on_superseded(self, error: Superseded) -> None:
        """End the context soon: the backstop learned of the takeover while the event loop was busy."""
        # The attempt's end may have been reported between the heartbeat's answer and this call.
        if not self._reporting:
            self._stop(error)

    def _begin_report(self) -> None:
        if self._reporting:
            raise RuntimeError("this attempt has already reported its end: result or failure, once")
        self._reporting = True

    def _take_back(self) -> None:
        """Undo a report that the gateway refused: the termination message must not count either."""
        _termination_message.write(self._termination_log, b"")
        self._exit_state.settled = None
        self._reporting = False

    async def _report_crash(self, error: Exception) -> None:
        """Report an exception that leaves the body, unless the attempt's end was reported before."""
        interrupted = self._exit_state.interrupted
        if self._reporting or interrupted or contains(error, Superseded, GatewayUnavailable):
            return
        if isinstance(error, AgentFailure):
            message, retryable = str(error), error.retryable
        else:
            # As after a plain container's exit code, another attempt may succeed, within the retry limit.
            message, retryable = f"{type(error).__name__}: {error}", True
        patience = self.options.retries.patience
        short = _CRASH_PATIENCE if patience is None else min(patience, _CRASH_PATIENCE)
        with suppress(AgentError):
            # Before the report, which closes the attempt for checkpoints.
            await self.writer.flush(patience=self._within(short))
        try:
            await self._fail(message, retryable=retryable, patience=short)
        except Superseded:
            raise
        except AgentError as refused:
            # Exit code and termination message carry the failure too; the body's error must not be replaced.
            log.warning("the failure could not be reported: %s", refused)

    async def _sign_of_life(self) -> None:
        """Send unsent progress, or else a heartbeat. An absent gateway is no error here."""
        sending, self._unsent = self._unsent, None
        if self._backstop is not None:
            self._backstop.postpone()
        try:
            if sending is None:
                await self.backend.heartbeat()
            else:
                await self.backend.progress(percent=sending[0], message=sending[1])
        except GatewayUnavailable as error:
            log.debug("no sign of life got through: %s", error)
            self._away = True
            # Progress that arrived during the call is newer and stays.
            self._unsent = self._unsent or sending
        except asyncio.CancelledError:
            self._unsent = self._unsent or sending
            raise
        else:
            self._away = False

    async def _send_heartbeats(self) -> None:
        """Run until cancelled. Raises Superseded, which ends the context and cancels the body."""
        while True:
            try:
                # A report is the last sign of life. A heartbeat after the report may find the attempt closed
                # and be answered with 409, which then means no takeover; the same holds for a heartbeat that
                # a report overtook.
                if not self._reporting:
                    await self._sign_of_life()
            except Superseded as error:
                if not self._reporting:
                    self._stop(error)
                    raise
            except AgentError as error:
                log.warning("sign of life refused: %s", error)
            interval = self.options.heartbeat_interval
            await self._clock.sleep(min(interval, AWAY_INTERVAL) if self._away else interval)

    async def _send_spooled(self) -> None:
        """Run until cancelled or until an end was reported. Raises Superseded, as the heartbeats do."""
        try:
            await self.writer.run()
        except Superseded as error:
            if not self._reporting:
                self._stop(error)
                raise

    async def _stop_superseded_body(self) -> None:
        """Raise Superseded soon after one of the body's calls did: a body that catches it must not go on."""
        await self._exit_state.superseded.wait()
        await asyncio.sleep(_SUPERSEDED_GRACE)
        raise Superseded(*(self._superseded.args if self._superseded is not None else ()))

    async def _leave(self) -> None:
        """Flush the spooled checkpoint, and raise again a Superseded that the body swallowed."""
        if not self._reporting:
            await self.flush()
        if self._superseded is not None:
            raise Superseded(*self._superseded.args)

    async def _leave_cancelled(self) -> None:
        if self._superseded is None and not self._reporting:
            with suppress(AgentError):
                await self.writer.flush(patience=self._within(self.options.grace))


def _superseded_in(group: BaseExceptionGroup[BaseException]) -> Superseded | None:
    for error in group.exceptions:
        found = _superseded_in(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, Superseded):
            return found
    return None
