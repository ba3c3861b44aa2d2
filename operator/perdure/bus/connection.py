"""One connection to NATS that survives restarts of NATS.

By default the client library gives up, blocks or reports to standard error; this module sets every option
that prevents it. An outage of NATS never fails a process: calls raise BusUnavailable within their deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self, TypeVar

import nats.errors
import structlog
from nats.aio.client import Client, Server, Srv
from nats.js import JetStreamContext

from perdure.bus.errors import BusUnavailable

_log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds for one connection attempt to one server.
CONNECT_TIMEOUT = 2
#: Mean seconds between attempts. Jittered, so that the clients of a restarted server do not all connect at
#: once.
RECONNECT_WAIT = 0.5
#: A silently dead connection is noticed after three of these (seconds).
PING_INTERVAL = 20
#: Seconds that JetStream has to answer a request.
REQUEST_TIMEOUT = 5.0


class _Client(Client):
    """The library's client, which closes connections that it abandons."""

    async def _connect_to_server(self, s: Srv) -> None:
        # The library forgets a connection that failed before the server's INFO, and leaves its socket open.
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)


class Bus:
    """A connection that reconnects by itself: an async context manager, to be connected by `connect`."""

    def __init__(self, url: str, *, name: str) -> None:
        """`url` is one or more `nats://` or `tls://` URLs separated by commas, and may hold credentials."""
        self._servers = [part.strip() for part in url.split(",") if part.strip()]
        if not self._servers:
            raise ValueError("no NATS server given: set PERDURE_NATS_URL, for example nats://nats:4222")
        self._name = name
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._reported: str | None = None
        self._lost = asyncio.Event()
        self._lost.set()
        self._changed = asyncio.Event()
        #: Number of the connection. What was read from the server under an earlier number may be outdated.
        self.generation = 0

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._client is not None and self._client.is_connected

    @property
    def client(self) -> Client:
        """The library's client. Raises BusUnavailable unless connected."""
        if self._client is None or not self._client.is_connected:
            raise BusUnavailable("not connected to NATS")
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        """The library's JetStream context. Raises BusUnavailable unless connected."""
        return self.client.jetstream(timeout=REQUEST_TIMEOUT)

    async def connect(self, *, timeout: float) -> None:
        """Return as soon as there is a connection. Raises BusUnavailable after `timeout` seconds.

        Safe to call at any time and from several tasks. A lost connection is waited for; a connection that
        the server closed for good (a refused login) is replaced.
        """
        try:
            async with asyncio.timeout(timeout):
                async with self._connecting:
                    if self._client is None or self._client.is_closed:
                        await self._open()
                # The library reconnects by itself; this loop only waits.
                while True:
                    # Cleared before the check: a change after the check sets the event again.
                    self._changed.clear()
                    if self.connected:
                        return
                    if self._client is None or self._client.is_closed:
                        raise BusUnavailable("NATS closed the connection")
                    await self._changed.wait()
        except TimeoutError:
            raise BusUnavailable(f"NATS did not answer within {timeout:g} s") from None

    async def unless_lost(self, work: Awaitable[T]) -> T:
        """The result of `work`; raises BusUnavailable, and cancels `work`, as soon as the connection is lost.

        An answer cannot arrive over a lost connection, so its timeout need not be waited for.
        """
        task, lost = asyncio.ensure_future(work), asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise BusUnavailable("the connection to NATS was lost")
            return task.result()
        finally:
            lost.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            # A cancelled `gather` keeps CancelledError as its exception, and logs it unless it is retrieved.
            if not task.cancelled():
                task.exception()

    async def close(self) -> None:
        """Close the connection; later calls raise BusUnavailable."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self) -> None:
        client = _Client()
        try:
            await client.connect(
                servers=self._servers,
                name=self._name,
                error_cb=self._on_error,
                disconnected_cb=self._on_lost,
                reconnected_cb=self._on_connected,
                closed_cb=self._on_closed,
                connect_timeout=CONNECT_TIMEOUT,
                # The default of 60 closes the client for good in the middle of a longer outage.
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                reconnect_to_server_handler=_next_server,
                ping_interval=PING_INTERVAL,
                max_outstanding_pings=2,
                # `subjects.py` checks subjects, and the library would check each twice for every request.
                skip_subject_validation=True,
            )
        except BaseException as error:
            # Also when the caller's deadline cancelled it: the half-open socket and its tasks must not stay.
            await _close(client)
            if isinstance(error, nats.errors.Error | OSError):
                raise BusUnavailable(f"cannot connect to NATS: {error}") from error
            raise
        self._client = client
        await self._on_connected()

    async def _on_connected(self) -> None:
        self.generation += 1
        self._reported = None
        self._lost.clear()
        self._changed.set()
        _log.info("nats_connected", generation=self.generation)

    async def _on_lost(self) -> None:
        if not self._lost.is_set():
            self._lost.set()
            _log.warning("nats_disconnected")

    async def _on_closed(self) -> None:
        # Wakes callers of `connect` that wait for a reconnect: there will be none.
        self._changed.set()

    async def _on_error(self, error: Exception) -> None:
        # An outage repeats its error twice a second; the first is enough for the log.
        text = f"{type(error).__name__}: {error}"
        if text != self._reported:
            self._reported = text
            _log.warning("nats_error", error=text)


def _next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
    """The server with the fewest reconnects, and the seconds to wait before trying it."""
    return min(servers, key=lambda server: server.reconnects), RECONNECT_WAIT * random.uniform(0.5, 1.5)


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        _log.debug("nats_close_failed", error=repr(error))
