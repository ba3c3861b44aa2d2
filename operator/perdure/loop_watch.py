"""A watch over the event loop: which code held it, and for how much CPU time.

One callback that computes for long delays every other run, agent and probe. The watch measures the CPU time
of the loop's thread, not wall time, so that a machine that is busy with other programs is no finding. It is
off unless `PERDURE_LOOP_WATCH` names a limit; switched on, it costs about a percent of one core.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from types import FrameType

import structlog

#: Seconds between two measurements. Callbacks that together take less are not distinguished.
_TICK = 0.002
#: Frames of the code that held the loop, innermost first.
_FRAMES = 8

_log = structlog.get_logger(__name__)


async def watch_loop(limit: float) -> None:
    """Log a warning whenever the loop's thread computes for more than `limit` seconds without a turn.

    Runs until it is cancelled, in the main thread: the sample of the guilty code is taken by SIGPROF.
    """
    sampler = _Sampler()
    previous = signal.signal(signal.SIGPROF, sampler.sample)
    try:
        while True:
            sampler.frames = ()
            # Armed again at every turn, so that the signal arrives only in code that has exceeded the limit.
            signal.setitimer(signal.ITIMER_PROF, limit + _TICK)
            before = time.thread_time()
            await asyncio.sleep(_TICK)
            held = time.thread_time() - before - _TICK
            if held > limit:
                _log.warning("event loop held", cpu_ms=round(held * 1000), code=list(sampler.frames))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


class _Sampler:
    """The code that runs when the timer expires."""

    def __init__(self) -> None:
        self.frames: tuple[str, ...] = ()

    def sample(self, _: int, frame: FrameType | None) -> None:
        found: list[str] = []
        while frame is not None and len(found) < _FRAMES:
            code = frame.f_code
            found.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
            frame = frame.f_back
        self.frames = tuple(found)
