"""LISTEN on a connection of its own: who wrote what, with no gap passed over in silence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from perdure.domain.records import LedgerUnavailable, Wake
from perdure.ledger.database import passing

CHANNEL: Final = "perdure_wake"
#: What a gateway says when it has put events into the outbox.
OUTBOX: Final = "outbox"
#: What stands before a run's uid if an agent gave a sign of life. The uid alone stands for a report.
SIGN: Final = "sign "

#: Seconds between attempts to connect: from, to.
_BACKOFF: Final = (0.05, 2.0)
#: Seconds of silence after which the connection is asked whether it lives: a peer that vanished without a
#: word would leave us deaf.
_PROBE: Final = 10.0


class _Ears:
    """What one connection has heard."""

    def __init__(self, outbox_written: asyncio.Event) -> None:
        #: Runs, and whether there is a report: one that is named a thousand times is looked at once.
        self.pending: dict[str, bool] = {}
        self.stirred = asyncio.Event()
        self._outbox_written = outbox_written

    def on_notify(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload == OUTBOX:
            self._outbox_written.set()
            return
        uid = payload.removeprefix(SIGN)
        self.pending[uid] = self.pending.get(uid, False) or uid == payload
        self.stirred.set()

    def on_end(self, _connection: Any) -> None:
        self.stirred.set()


async def listen(
    connect: Callable[[], Awaitable[Any]], outbox_written: asyncio.Event
) -> AsyncGenerator[Wake | None, None]:
    """Runs that agents wrote about, each once until it is taken; None after each (re)connect.

    Never ends, and never raises LedgerUnavailable: it connects again. Cancel the consumer to stop it.
    """
    delay = _BACKOFF[0]
    while True:
        try:
            connection = await connect()
        except LedgerUnavailable:
            delay = await _pause(delay)
            continue
        ears = _Ears(outbox_written)
        try:
            connection.add_termination_listener(ears.on_end)
            await connection.add_listener(CHANNEL, ears.on_notify)
            delay = _BACKOFF[0]
            # From here on nothing is missed; what was written before is what None stands for.
            outbox_written.set()
            yield None
            while not connection.is_closed():
                try:
                    async with asyncio.timeout(_PROBE):
                        await ears.stirred.wait()
                except TimeoutError:
                    await connection.fetchval("select 1")
                    continue
                ears.stirred.clear()
                while ears.pending:
                    uid = next(iter(ears.pending))
                    yield Wake(uid, ears.pending.pop(uid))
        except Exception as error:
            if not passing(error):
                raise
            delay = await _pause(delay)
        finally:
            connection.remove_termination_listener(ears.on_end)
            with suppress(Exception):
                connection.terminate()


async def _pause(delay: float) -> float:
    await asyncio.sleep(delay * random.uniform(0.5, 1.0))
    return min(delay * 2, _BACKOFF[1])
