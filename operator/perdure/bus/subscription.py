"""A subscription to one run's events as they are published, which are hints to read the ledger.

This is a plain subscription to the stream's subjects, not a consumer of the stream: the server keeps no state
for it, it resumes with the connection, and it needs no stream. Events that it misses are in the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import nats.errors
import structlog
from nats.aio.msg import Msg

from perdure.bus.cloudevents import decode
from perdure.bus.connection import Bus
from perdure.bus.errors import BusUnavailable
from perdure.bus.subjects import run_subjects
from perdure.domain.records import Event

_log = structlog.get_logger(__name__)

#: Events kept for a slow reader. More are dropped, and read from the ledger instead.
_BUFFER = 1024


class Hints:
    """Events of runs of one name, in the order of arrival. Events may be repeated or missing."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_BUFFER)
        #: True if the last answer of `next` was None because events were dropped.
        self.dropped = False

    async def next(self, *, timeout: float) -> Event | None:
        """The next event; None after `timeout` seconds, or at once if some were dropped (see `dropped`)."""
        self.dropped = False
        try:
            async with asyncio.timeout(timeout):
                event = await self._queue.get()
        except TimeoutError:
            return None
        self.dropped = event is None
        return event

    async def _take(self, message: Msg) -> None:
        try:
            event: Event | None = decode(message.data)
        except ValueError as error:
            _log.warning("foreign_message", subject=message.subject, error=str(error))
            return
        if self._queue.full():
            # The reader is behind: reading the ledger once is cheaper than draining this queue.
            while not self._queue.empty():
                self._queue.get_nowait()
            event = None
        self._queue.put_nowait(event)


@contextlib.asynccontextmanager
async def subscribe(bus: Bus, namespace: str, workflow: str) -> AsyncIterator[Hints]:
    """Subscribe to the events of runs of this name. The subscription outlives disconnections.

    Raises BusUnavailable when there is no connection at first.
    """
    hints = Hints()
    try:
        subscription = await bus.client.subscribe(run_subjects(namespace, workflow), cb=hints._take)
        # No event is missed from the server's answer on.
        await bus.client.flush(timeout=5)
    except (nats.errors.Error, OSError) as error:
        raise BusUnavailable(f"cannot subscribe: {error!r}") from error
    try:
        yield hints
    finally:
        # Also without a connection: else the next connection would resume the subscription.
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()
