"""The time that passes wait for the ledger, so that statuses can say so before a statement times out.

A ledger that refuses connections fails at once; one that hangs (a frozen server, a network that drops
packets) fails after the time of a statement, ten seconds. The status names the cause within five.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, cast

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.ports import LedgerPort

#: Seconds without an answer after which a pass counts as waiting for the ledger.
SLOW: Final = 2.0

#: The run or schedule whose pass the present task belongs to.
current_pass: ContextVar[RunKey | None] = ContextVar("current_pass", default=None)


class LedgerWait:
    """Calls of the ledger by passes, each with a timer. `on_slow` gets the pass that waits."""

    def __init__(self, ledger: LedgerPort) -> None:
        self._ledger = ledger
        #: Called with the key of a pass that waits, and whether no call at all was answered meanwhile.
        self.on_slow: Callable[[RunKey, bool], None] = lambda _key, _silent: None
        self._answered = -SLOW

    def __getattr__(self, name: str) -> Any:
        # Reached once for each method: the wrapper is kept as an attribute.
        method = getattr(self._ledger, name)
        if not inspect.iscoroutinefunction(method):
            return method
        wrapped = self._timed(method)
        setattr(self, name, wrapped)
        return wrapped

    def _timed(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            key = current_pass.get()
            loop = asyncio.get_running_loop()
            timer = None if key is None else loop.call_later(SLOW, self._note, key)
            try:
                result = await method(*arguments, **named)
            finally:
                if timer is not None:
                    timer.cancel()
            self._answered = loop.time()
            return result

        return call

    def _note(self, key: RunKey) -> None:
        silent = asyncio.get_running_loop().time() - self._answered >= SLOW
        self.on_slow(key, silent)


def waiting_ledger(ledger: LedgerPort) -> tuple[LedgerPort, LedgerWait]:
    """The ledger with timers, and the object that reports them."""
    wait = LedgerWait(ledger)
    return cast(LedgerPort, wait), wait
