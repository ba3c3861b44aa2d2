"""Notifications of Postgres (LISTEN) on a connection of their own; a gap in them is announced."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from perdure.domain.records import LedgerUnavailable, Wake
from perdure.ledger.database import passing
from perdure.ledger.sessions import abandon

CHANNEL: Final = "perdure_wake"
#: Payload of a gateway that put events into the outbox.
OUTBOX: Final = "outbox"
#: Prefix of a run's uid for a sign of life of an agent. The uid alone stands for a report or a signal.
SIGN: Final = "sign "

#: Seconds between attempts to connect: from, to.
_BACKOFF: Final = (0.05, 2.0)
#: Seconds without a notification after which the connection is probed: a peer that vanished without a FIN
#: would go unnoticed for ever.
_PROBE: Final = 10.0


class _Notifications:
    """The notifications that one connection received and the consumer has not taken."""

    def __init__(self, outbox_written: asyncio.Event) -> None:
        #: Runs, and whether there is a report or signal: a run that is named a thousand times is yielded
        #: once.
        self.pending: dict[str, bool] = {}
        self.changed = asyncio.Event()
        self._outbox_written = outbox_written

    def on_notify(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload == OUTBOX:
            self._outbox_written.set()
            return
        uid = payload.removeprefix(SIGN)
        self.pending[uid] = self.pending.get(uid, False) or uid == payload
        self.changed.set()

    def on_end(self, _connection: Any) -> None:
        self.changed.set()


async def listen(
    connect: Callable[[], Awaitable[Any]], outbox_written: asyncio.Event
) -> AsyncGenerator[Wake | None, None]:
    """Runs about which something was written, each once until it is taken; None after each (re)connect.

    Never ends and never raises LedgerUnavailable: a lost connection is opened again. Cancel the consumer to
    stop.
    """
    delay = _BACKOFF[0]
    while True:
        try:
            connection = await connect()
        except LedgerUnavailable:
            delay = await _pause(delay)
            continue
        received = _Notifications(outbox_written)
        try:
            connection.add_termination_listener(received.on_end)
            await connection.add_listener(CHANNEL, received.on_notify)
            delay = _BACKOFF[0]
            # No notification is missed from here on; None stands for all earlier ones.
            outbox_written.set()
            yield None
            while not connection.is_closed():
                try:
                    async with asyncio.timeout(_PROBE):
                        await received.changed.wait()
                except TimeoutError:
                    await connection.fetchval("select 1")
                    continue
                received.changed.clear()
                while received.pending:
                    uid = next(iter(received.pending))
                    yield Wake(uid, received.pending.pop(uid))
        except Exception as error:
            if not passing(error):
                raise
            delay = await _pause(delay)
        finally:
            connection.remove_termination_listener(received.on_end)
            await abandon(connection)


async def _pause(delay: float) -> float:
    await asyncio.sleep(delay * random.uniform(0.5, 1.0))
    return min(delay * 2, _BACKOFF[1])
