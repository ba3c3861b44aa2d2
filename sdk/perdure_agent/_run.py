"""From an agent's main coroutine to a container's exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

from perdure_agent import _exit_state
from perdure_agent._exit_state import ExitState
from perdure_agent.errors import GatewayUnavailable, Superseded, contains

EXIT_SUCCEEDED = 0
EXIT_FAILED = 1
#: "Interrupted: run me again from my checkpoint." Counts as a disruption, not as a failure.
EXIT_INTERRUPTED = 75
#: "Another attempt has taken over."
EXIT_SUPERSEDED = 76

#: How long `main` may take to end once another attempt has taken over. Seconds.
STOPPING = 10.0


def run(main: Callable[[], Coroutine[Any, Any, object]]) -> NoReturn:
    """Run `main()` to its end and exit as the agent's contract asks.

    SIGTERM cancels `main`, which may catch the cancellation to save a last checkpoint; the exit code is then
    75, unless a result or failure was left before. 75 also if a result or anything else could not be brought
    to the gateway in time: another attempt goes on from the last checkpoint. 76 if the attempt was
    superseded, whatever `main` makes of it, and after ten seconds without its consent; 1 after an exception
    or a reported failure, else 0. `sys.exit` inside `main` keeps its code.
    """
    raise SystemExit(asyncio.run(supervise(main)))


async def supervise(main: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """What `run` does, without leaving the process: returns the exit code."""
    end = ExitState()
    token = _exit_state.current.set(end)
    try:
        task = asyncio.create_task(_as_object(main), name="perdure-main")
    finally:
        _exit_state.current.reset(token)

    def interrupt() -> None:
        # Once: a second cancellation would break into the saving of the last checkpoint.
        if not end.interrupted:
            end.interrupt()
            task.cancel()

    loop = asyncio.get_running_loop()
    # Missing on Windows, where containers of ours do not run but laptops do.
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, interrupt)
    superseded = asyncio.create_task(end.superseded.wait(), name="perdure-superseded")
    try:
        await asyncio.wait({task, superseded}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            # Whoever is connected is cancelled already.
            await asyncio.wait({task}, timeout=STOPPING / 2)
            task.cancel()
            await asyncio.wait({task}, timeout=STOPPING / 2)
        if not task.done():
            _abandon()
    except asyncio.CancelledError:
        # Ctrl-C on a laptop: the same chance to save as SIGTERM gives.
        interrupt()
        await asyncio.wait({task})
        raise
    finally:
        superseded.cancel()
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)
    return _exit_code(task, end)


def _exit_code(task: asyncio.Task[object], end: ExitState) -> int:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        traceback.print_exception(error)
    if end.superseded.is_set() or (error is not None and contains(error, Superseded)):
        return EXIT_SUPERSEDED
    # What has been left behind outweighs the interruption: exit 75 would have finished work done again.
    if end.settled is not None and (end.interrupted or error is None):
        return EXIT_SUCCEEDED if end.settled == "succeeded" else EXIT_FAILED
    # An absent gateway is no fault of the work's, and must not be counted as one.
    away = error is not None and end.settled is None and contains(error, GatewayUnavailable)
    if end.interrupted or end.unsent or away:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if error is not None or task.cancelled() else EXIT_SUCCEEDED


def _abandon() -> NoReturn:
    """End the process under a `main` that does not: its work counts for nothing, and may do harm."""
    sys.stderr.write("perdure: superseded, and main does not end; leaving it\n")
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(EXIT_SUPERSEDED)


async def _as_object(main: Callable[[], Coroutine[Any, Any, object]]) -> object:
    return await main()
