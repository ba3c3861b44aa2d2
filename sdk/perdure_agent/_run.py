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

#: Time for `main` to end once another attempt has taken over. Seconds.
STOPPING = 10.0

Main = Callable[[], Coroutine[Any, Any, object]]


def run(main: Main) -> NoReturn:
    """Run `main()` to its end and exit as the agent's contract asks.

    SIGTERM cancels `main`, which may catch the cancellation to save a last checkpoint; the exit code is then
    75, unless a result or failure was left before. The exit code is 75 too if a result or another call could
    not reach the gateway in time: another attempt goes on from the last checkpoint. The exit code is 76 if
    the attempt was superseded, whatever `main` returns or raises; a `main` that has not ended ten seconds
    later is abandoned. After an exception or a reported failure the exit code is 1, otherwise 0. `sys.exit`
    inside `main` keeps its code.
    """
    raise SystemExit(asyncio.run(supervise(main)))


async def supervise(main: Main) -> int:
    """The same as `run` without leaving the process: returns the exit code."""
    state = ExitState()
    loop = asyncio.get_running_loop()
    # Missing on Windows, where laptops run agents but containers of ours do not.
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, state.interrupt)
    try:
        return await supervise_main(main, state, abandon=_abandon)
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)


async def supervise_main(main: Main, state: ExitState, *, abandon: Callable[[], NoReturn]) -> int:
    """Run `main()` under `state` and return the exit code. `abandon` must leave a `main` that never ends."""
    token = _exit_state.current.set(state)
    try:
        task = asyncio.create_task(_as_object(main), name="perdure-main")
    finally:
        _exit_state.current.reset(token)
    state.cancel_main = task.cancel
    superseded = asyncio.create_task(state.superseded.wait(), name="perdure-superseded")
    try:
        await asyncio.wait({task, superseded}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            # The body of `connect` is cancelled already; the rest of `main` gets the same time twice.
            await asyncio.wait({task}, timeout=STOPPING / 2)
            task.cancel()
            await asyncio.wait({task}, timeout=STOPPING / 2)
        if not task.done():
            abandon()
    except asyncio.CancelledError:
        # Ctrl-C on a laptop: the same chance to save as SIGTERM gives.
        state.interrupt()
        await asyncio.wait({task})
        raise
    finally:
        state.cancel_main = None
        superseded.cancel()
    return _exit_code(task, state)


def _exit_code(task: asyncio.Task[object], state: ExitState) -> int:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        traceback.print_exception(error)
    if state.superseded.is_set() or (error is not None and contains(error, Superseded)):
        return EXIT_SUPERSEDED
    # A report that survives the process outweighs the interruption: exit code 75 would repeat finished work.
    if state.settled is not None and (state.interrupted or error is None):
        return EXIT_SUCCEEDED if state.settled == "succeeded" else EXIT_FAILED
    # An absent gateway is no fault of the work and must not count as one.
    away = error is not None and state.settled is None and contains(error, GatewayUnavailable)
    if state.interrupted or state.unsent or away:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if error is not None or task.cancelled() else EXIT_SUCCEEDED


def _abandon() -> NoReturn:
    """End the process under a `main` that does not end: its work no longer counts, and may do harm."""
    sys.stderr.write("perdure: superseded, and main does not end; leaving it\n")
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(EXIT_SUPERSEDED)


async def _as_object(main: Main) -> object:
    return await main()
