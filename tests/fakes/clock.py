"""An event loop with virtual time, which passes only when no callback is ready, and with simulated processes.

Minutes of backoff take milliseconds, and a run depends on its seed alone, so a failing run can be replayed.
Tasks of a `Process` can be frozen and killed as the kernel does it: at any await, without running a single
`finally`, and with their timers stopped.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

START = datetime(2026, 1, 1, tzinfo=UTC)

Result = TypeVar("Result")


class Deadlock(Exception):
    """All tasks wait, and no timer is set that could wake one."""


class Process:
    """A simulated process: everything started in it is frozen, resumed and killed together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = True
        #: Callbacks that became ready while the process was frozen.
        self.backlog: list[asyncio.Handle] = []
        self.context = contextvars.Context()
        self.context.run(_process.set, self)
        #: Event-loop callbacks until `on_fuse` is called; None for never.
        self.fuse: int | None = None
        self.on_fuse: Callable[[], None] = self.stop
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        loop.note_process(self)

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run something in this process."""
        return self._loop.create_task(work, context=self.context)

    def stop(self) -> None:
        """SIGSTOP; and SIGKILL, if the process is never resumed."""
        self.running = False

    def resume(self) -> None:
        """SIGCONT."""
        if not self.running:
            self.running = True
            backlog, self.backlog = self.backlog, []
            self._loop.run_soon(backlog)


_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop. Time starts at 0; there is no I/O."""

    _ready: Any

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        #: Timers by the time at which they fire, then by the order in which they were set.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._processes: list[Process] = []

    def note_process(self, process: Process) -> None:
        self._processes.append(process)

    def forget_processes(self) -> None:
        """Resume everything that was frozen or killed, so that it can be cancelled."""
        for process in self._processes:
            process.fuse = None
            process.resume()

    def time(self) -> float:
        return self._seconds

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def run_soon(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._let_time_pass()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(_process)
            if process is not None:
                if process.fuse is not None:
                    process.fuse -= 1
                    if process.fuse < 0:
                        process.fuse = None
                        process.on_fuse()
                if not process.running:
                    process.backlog.append(handle)
                    continue
            handle._run()

    def _let_time_pass(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Deadlock("all tasks wait for each other")
        seconds = self._seconds = max(self._seconds, timers[0][0])
        while timers and timers[0][0] <= seconds:
            self._ready.append(heapq.heappop(timers)[2])


def now() -> datetime:
    """The virtual wall clock."""
    return START + timedelta(seconds=asyncio.get_running_loop().time())


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a loop of its own, and leave no task behind."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        take_apart(loop)


def take_apart(loop: VirtualLoop) -> None:
    """End every task, also those of frozen and killed processes, and close the loop."""
    loop.set_exception_handler(lambda _, context: None)
    loop.forget_processes()
    for _ in range(10):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=60.0))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
