"""A TCP proxy before a server, for what a network does to a connection without closing it.

Postgres is read as a stream of its messages, so that a test can cut a conversation at every point of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

_CHUNK = 64 * 1024
#: Length and code of the packet that cancels a statement; it comes in the place of a start-up packet.
_CANCEL = struct.pack("!ll", 16, 80877102)


@dataclass(slots=True)
class Messages:
    """The messages of one client: type and the number of bytes up to the end of each."""

    ends: list[tuple[str, int]] = field(default_factory=list)
    _rest: bytes = b""
    _total: int = 0

    def read(self, data: bytes) -> None:
        self._rest += data
        while True:
            # Only the first packet of a connection has no type.
            head = 1 if self.ends else 0
            if len(self._rest) < head + 4:
                return
            length = head + int.from_bytes(self._rest[head : head + 4], "big")
            if len(self._rest) < length:
                return
            self._total += length
            self.ends.append((self._rest[:head].decode() or "start", self._total))
            self._rest = self._rest[length:]


class Proxy:
    """One listener on 127.0.0.1. What it does to connections may be changed while they are open."""

    def __init__(self, target: Path | tuple[str, int]) -> None:
        """`target`: a socket's path, or host and port."""
        self._target = target
        self.port = 0
        #: Bytes of clients, of all connections together, after which every byte of both directions is
        #: swallowed and nothing is closed: what a lost node and a full middlebox do. None for no limit.
        self.swallow_after: int | None = None
        #: Cleared: no byte is read from clients or the server.
        self.reading = asyncio.Event()
        self.reading.set()
        #: Seconds before each chunk is passed on.
        self.delay = 0.0
        #: Set once a byte was swallowed.
        self.swallowed = asyncio.Event()
        #: Bytes that were passed on to the server.
        self.sent = 0
        #: Messages of each connection.
        self.connections: list[Messages] = []
        #: CancelRequests that were passed on.
        self.cancels = 0
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._target, Path):
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._target))
        else:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, far_writer]
        messages = Messages()
        self.connections.append(messages)

        def note(data: bytes) -> None:
            self.cancels += data.startswith(_CANCEL)
            messages.read(data)

        for pump in (
            self._pump(reader, far_writer, self._take, note),
            self._pump(far_reader, writer, self._give, lambda _: None),
        ):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    def _take(self, data: bytes) -> bytes:
        """What of a client's bytes is passed on."""
        if self.swallow_after is not None and self.sent + len(data) > self.swallow_after:
            data = data[: max(0, self.swallow_after - self.sent)]
            self.swallowed.set()
        self.sent += len(data)
        return data

    def _give(self, data: bytes) -> bytes:
        """What of the server's bytes is passed on. Nothing once the client's last byte was passed on."""
        if self.swallow_after is not None and self.sent >= self.swallow_after:
            self.swallowed.set()
            return b""
        return data

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        limit: Callable[[bytes], bytes],
        note: Callable[[bytes], None],
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self.reading.wait()
                data = await source.read(_CHUNK)
                await self.reading.wait()
                if not data:
                    break
                note(data)
                if self.delay:
                    await asyncio.sleep(self.delay)
                sink.write(limit(data))
                await sink.drain()
            # A lost node says no goodbye.
            if not self.swallowed.is_set():
                sink.close()

    async def close(self) -> None:
        """Close every connection."""
        for task in list(self._pumps):
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def proxy_before(target: Path | tuple[str, int]) -> AsyncIterator[Proxy]:
    """A running proxy."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
