"""One task and its gateway in memory: the attempts, the scripted faults and the records of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NoReturn, Self

from perdure_agent import _agent, _runtime
from perdure_agent._agent import Agent
from perdure_agent._checkpoints import BYTES, JSON, encode_json
from perdure_agent._exit_state import ExitState
from perdure_agent._last_failure import LastFailure
from perdure_agent._options import Options
from perdure_agent._run import Main, supervise_main
from perdure_agent._runtime import Runtime
from perdure_agent.testing._backstop import Backstops
from perdure_agent.testing._client import ConnectionLost, InMemoryClient
from perdure_agent.testing._clock import Clock
from perdure_agent.testing._exchange import Exchanges
from perdure_agent.testing._faults import Chooser, Fault, Killed
from perdure_agent.testing._outcome import EXIT_KILLED, contract_form, exit_code_of, outcome
from perdure_agent.testing._pod import Pod, token
from perdure_agent.testing._problems import Message, Response
from perdure_agent.testing._records import (
    Failure,
    RecordedCheckpoint,
    RecordedProgress,
    RecordedRequest,
    Route,
    Saved,
    Success,
)
from perdure_agent.testing._server import bind, listening
from perdure_agent.testing._task import Attempt, Task


class Gateway:
    """The gateway of one task. An asynchronous context manager, for one event loop.

    Each `connect`, `run` or `serve` starts an attempt in a pod of its own. The new attempt supersedes the
    attempt before, and gets the checkpoints of all earlier attempts and the last one's failure.
    """

    def __init__(
        self,
        *,
        input: Any = None,
        checkpoints: Iterable[Any] = (),
        namespace: str = "default",
        workflow: str = "workflow",
        step: str = "step",
        index: int | None = None,
        model: str | None = None,
        last_failure: LastFailure | None = None,
        checkpoints_per_task: int = 10,
        seed: int = 0,
    ) -> None:
        """A task with `input`, any JSON value (None: {}), and `checkpoints`, oldest first.

        Each checkpoint is a `Saved`, or its data alone. `index`: of the item, in a `forEach` step.
        `last_failure`: of an earlier attempt; the first attempt here has the next number. `seed`: of the
        jitter between retries. Raises TypeError or ValueError for what JSON cannot hold.
        """
        task_input = {} if input is None else input
        encode_json(task_input, field="input")
        self.clock = Clock(seed=seed)
        self._model = model
        self._first = 1 if last_failure is None else last_failure.attempt + 1
        self._task = Task(
            namespace=namespace,
            workflow=workflow,
            name=f"{workflow}-{step}" + ("" if index is None else f"-{index}") + "-abcde",
            step=step,
            index=index,
            input=task_input,
            last_failure=None if last_failure is None else contract_form(last_failure),
            kept=checkpoints_per_task,
        )
        for given in checkpoints:
            self._task.add(_given(given, sequence=self._task.sequence + 1))
        self._exchanges = Exchanges(self._task, clock=self.clock)
        #: End of the task, or else of its last attempt; None before the first end.
        self.outcome: Success | Failure | None = None
        self._pods: list[Pod] = []
        self._exit_state: ExitState | None = None
        self._folder: TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="perdure-testing-")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._folder is not None
        self._folder.cleanup()
        self._folder = None

    # Attempts.

    @asynccontextmanager
    async def connect(self, *, options: Options | None = None) -> AsyncIterator[Agent]:
        """The next attempt, opened as by `perdure_agent.connect`.

        Raises as `perdure_agent.connect` does; Killed after a scripted `Kill`; RuntimeError if the task has
        ended.
        """
        pod = self._start_pod()
        failed: Exception | None = None
        try:
            async with AsyncExitStack() as stack:
                # Set for the opening alone: the body is the test's code and keeps the test's context.
                outer = _runtime.current.set(self._runtime(pod))
                try:
                    agent = await stack.enter_async_context(_agent.connect(options=options))
                finally:
                    _runtime.current.reset(outer)
                try:
                    yield agent
                except Exception as raised:
                    failed = raised
                    raise
        except BaseException as error:
            self._end(pod, exit_code_of(error))
            # A kill at a heartbeat, or inside a task group of the agent's, arrives in an exception group. So
            # does the kill that meets the report of a failed assertion, which must not be hidden.
            if isinstance(error, BaseExceptionGroup) and error.subgroup(Killed) is not None:
                raise failed or Killed("the pod was killed") from error
            raise
        # The body's own exit code is unknown; a result in the termination message alone counts nevertheless.
        self._end(pod, 0 if pod.termination_message else None)

    async def run(self, main: Main) -> int:
        """The next attempt as by `perdure_agent.run(main)`, in this process. Returns the exit code.

        `perdure_agent.connect()` inside `main` connects to this gateway, whatever the environment variables
        say. 137 stands for a scripted `Kill`. Raises RuntimeError if the task has ended, AssertionError if
        `main` does not end within ten real seconds of being superseded.
        """
        pod = self._start_pod()
        state = ExitState(clock=self.clock)
        left: list[int] = []

        async def body() -> None:
            try:
                await main()
            except SystemExit as error:
                # SystemExit would end the event loop, and the test with the loop.
                left.append(error.code if isinstance(error.code, int) else int(error.code is not None))

        outer = _runtime.current.set(self._runtime(pod))
        self._exit_state = state
        try:
            code = await supervise_main(body, state, abandon=_never_ended)
        finally:
            self._exit_state = None
            _runtime.current.reset(outer)
        code = left[0] if left else code
        self._end(pod, code)
        return EXIT_KILLED if pod.killed else code

    @asynccontextmanager
    async def serve(self, *, port: int = 0) -> AsyncIterator[dict[str, str]]:
        """The next attempt for a process of its own. Yields the process's environment variables.

        The gateway listens on loopback, until the context ends. Times are real here: `Slow` takes as long as
        it says, and nothing waits on `clock`. `Kill` breaks the connection; killing the process is left to
        the test. The exit code is unknown here, so that `outcome` is what the process reported. Raises
        OSError if the port is taken, RuntimeError if the task has ended.
        """

        async def exchange(message: Message) -> Response:
            try:
                return await self._exchanges.exchange(message, pod, sleep=asyncio.sleep)
            except Killed as error:
                raise ConnectionLost("the pod was killed") from error

        listener, url = bind(port)
        with closing(listener):
            # Before the server runs: a process that retries at a known port may send at once.
            pod = self._start_pod(gateway_url=url)
            async with listening(exchange, listener=listener):
                yield pod.variables()
        self._end(pod, None)

    def take_over(self) -> None:
        """Close the current attempt as the operator does: each of its calls is answered 409 `superseded`."""
        self._pod().attempt.open = False

    def interrupt(self) -> None:
        """SIGTERM for the main coroutine in `run`. Raises RuntimeError without one."""
        if self._exit_state is None:
            raise RuntimeError("interrupt: no main coroutine runs; start one with run()")
        self._exit_state.interrupt()

    def renew_token(self) -> None:
        """Put a valid token into the current pod's file, as the kubelet does."""
        self._pod().renew_token()

    # Faults.

    def script(
        self, fault: Fault | Chooser, *, on: Route | None = None, at: int = 1, times: int | None = 1
    ) -> None:
        """Let `times` requests meet a fault, from the `at`-th future request on; None: all from there on.

        `on` names the call; None stands for every call but heartbeats. `at` and `times` count requests, so
        that retries count too. A function in place of the fault gets each of these requests and returns a
        fault or None. Of several due faults the one that was scripted first acts. Raises ValueError for
        numbers below 1 and for an unknown call.
        """
        self._exchanges.script.add(fault, on=on, at=at, times=times)

    def clear_script(self) -> None:
        """Remove all scripted faults."""
        self._exchanges.script.clear()

    @property
    def unmet_faults(self) -> list[Fault | Chooser]:
        """Scripted faults that no request has met. A test that needs its faults asserts that none is left."""
        return self._exchanges.script.unmet

    @contextmanager
    def away(self) -> Iterator[None]:
        """All requests fail, heartbeats included, while the context is open."""
        self._exchanges.away += 1
        try:
            yield
        finally:
            self._exchanges.away -= 1

    def damage(self, sequence: int, *, in_transit: bool = False) -> None:
        """Damage a checkpoint: in the ledger (500 `checkpoint-corrupt`), or `in_transit` (wrong bytes)."""
        (self._task.garbled if in_transit else self._task.corrupt).add(sequence)

    # Records.

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests, in the order of their arrival."""
        return list(self._exchanges.requests)

    @property
    def input(self) -> Any:
        """The task's input."""
        return self._task.input

    @property
    def attempt(self) -> int:
        """Number of the newest attempt; 0 before the first."""
        return self._pods[-1].attempt.number if self._pods else 0

    @property
    def checkpoints(self) -> list[RecordedCheckpoint]:
        """All kept checkpoints, oldest first, the test's own among them."""
        return list(self._task.checkpoints)

    @property
    def latest(self) -> RecordedCheckpoint | None:
        """The checkpoint that the next attempt restores; None without one."""
        return self._task.latest()

    @property
    def restored(self) -> list[tuple[int, int]]:
        """(attempt, sequence) of each checkpoint that an attempt restored."""
        return list(self._task.restored)

    @property
    def progress(self) -> list[RecordedProgress]:
        """All reports of progress. A real gateway emits at most two a second as events."""
        return list(self._task.progress)

    @property
    def heartbeats(self) -> list[float]:
        """Times of all heartbeats, in virtual seconds."""
        return list(self._task.heartbeats)

    @property
    def reports(self) -> list[Success | Failure]:
        """Results and failures that agents reported, one for each attempt at most, oldest first."""
        return [found for pod in self._pods if (found := pod.attempt.report) is not None]

    @property
    def output(self) -> Any:
        """Output of the task. Raises AssertionError unless the task has succeeded."""
        if isinstance(self.outcome, Success):
            return self.outcome.output
        raise AssertionError(f"the task has not succeeded; its outcome is {self.outcome}")

    @property
    def termination_message(self) -> str | None:
        """Termination message of the newest attempt's container; None without one."""
        return self._pod().termination_message

    async def until(self, condition: Callable[[], bool], *, deadline: float = 10.0) -> None:
        """Wait until requests make a condition true, while virtual time passes.

        Raises TimeoutError after `deadline` real seconds.
        """
        with self.clock.waiting():
            async with asyncio.timeout(deadline):
                while not condition():
                    await self._exchanges.change()

    def _pod(self) -> Pod:
        if not self._pods:
            raise RuntimeError("no attempt has started: use connect(), run() or serve()")
        return self._pods[-1]

    def _start_pod(self, *, gateway_url: str = "http://gateway.invalid") -> Pod:
        if self._folder is None:
            raise RuntimeError("the gateway is not open: use `async with testing.Gateway(…) as gateway`")
        if isinstance(self.outcome, Success) or (self.outcome is not None and not self.outcome.retryable):
            raise RuntimeError(f"the task has ended, so that no attempt follows: {self.outcome}")
        for pod in self._pods:
            pod.attempt.open = False
        number = self._first + len(self._pods)
        if isinstance(self.outcome, Failure):
            self._task.last_failure = contract_form(self.outcome)
        attempt = Attempt(number, token(number, 1))
        pod = Pod.create(
            Path(self._folder.name) / f"attempt-{number}",
            self._task,
            attempt,
            model=self._model,
            gateway_url=gateway_url,
        )
        self._task.attempts.append(attempt)
        self._pods.append(pod)
        return pod

    def _runtime(self, pod: Pod) -> Runtime:
        async def exchange(message: Message, sender: Pod) -> Response:
            return await self._exchanges.exchange(message, sender, sleep=self.clock.sleep)

        client = InMemoryClient(pod, exchange=exchange, clock=self.clock)
        backstops = Backstops(pod, exchange=self._exchanges.exchange_now, clock=self.clock)
        return Runtime(
            clock=self.clock,
            open_client=client.opened,
            open_backstop=backstops.opened,
            environment=pod.environment,
        )

    def _end(self, pod: Pod, exit_code: int | None) -> None:
        """Close the attempt. None: the exit code is unknown."""
        self.outcome = outcome(pod, EXIT_KILLED if pod.killed else exit_code) or self.outcome
        pod.attempt.open = False


def _given(given: Any, *, sequence: int) -> RecordedCheckpoint:
    saved = given if isinstance(given, Saved) else Saved(data=given)
    raw = isinstance(saved.data, bytes)
    return RecordedCheckpoint(
        sequence=sequence,
        attempt=0,
        data=saved.data if raw else encode_json(saved.data, field="checkpoints"),
        content_type=saved.content_type or (BYTES if raw else JSON),
        label=saved.label,
        recoverable=saved.recoverable,
        order=None,
        at=0.0,
    )


def _never_ended() -> NoReturn:
    raise AssertionError("the attempt is superseded, and main does not end")
