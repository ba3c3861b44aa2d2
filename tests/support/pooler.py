"""A pooler before Postgres, as small as it can be: one session for each client, or one for each transaction.

It reads the protocol as far as it must: where a client's request begins, and where the server is idle again.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Literal

_SSL = 80877103
_CANCEL = 80877102

Mode = Literal["session", "transaction", "statement"]
Order = Literal["newest", "oldest"]


class _Backend:
    """A session of the server, with what it said at its start."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = b""


class Pooler:
    """One listener on 127.0.0.1. Every client must name the same user and database."""

    def __init__(self, target: Path, *, mode: Mode, order: Order, notifications: bool) -> None:
        self._target = target
        self._mode = mode
        self._order = order
        self._notifications = notifications
        self.port = 0
        self._idle: deque[_Backend] = deque()
        self._all: list[_Backend] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""
        try:
            packet = await self._start(reader, writer)
            if packet is None:
                return
            backend = await self._take(packet)
            writer.write(backend.greeting)
            if self._mode == "session":
                await self._session(reader, writer, backend)
                return
            self._idle.append(backend)
            while (head := await reader.readexactly(5))[:1] != b"X":
                await self._transaction(head, reader, writer, await self._take(packet))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!ll", head)
            rest = await reader.readexactly(length - 8)
            if code == _CANCEL:
                return None
            if code != _SSL:
                return head + rest
            writer.write(b"N")

    async def _take(self, packet: bytes) -> _Backend:
        if self._idle:
            return self._idle.pop() if self._order == "newest" else self._idle.popleft()
        backend = _Backend(*await asyncio.open_unix_connection(str(self._target)))
        self._all.append(backend)
        backend.writer.write(packet)
        while True:
            kind, message = await _message(backend.reader)
            backend.greeting += message
            if kind == b"Z":
                return backend

    async def _session(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, backend: _Backend
    ) -> None:
        """Pass everything on until one end closes."""

        async def requests() -> None:
            while data := await reader.read(65536):
                backend.writer.write(data)
            raise asyncio.IncompleteReadError(b"", None)

        async def answers() -> None:
            while True:
                kind, message = await _message(backend.reader)
                if kind != b"A" or self._notifications:
                    writer.write(message)

        await _first_of(requests(), answers())

    async def _transaction(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        backend: _Backend,
    ) -> None:
        """Pass requests and answers on until the server is idle outside of a transaction."""

        async def requests() -> None:
            kind = head
            while True:
                # Cancelled between two requests only: a client sends the next one after the answer.
                rest = await reader.readexactly(int.from_bytes(kind[1:], "big") - 4)
                backend.writer.write(kind + rest)
                kind = await reader.readexactly(5)

        async def answers() -> None:
            while True:
                kind, message = await _message(backend.reader)
                over = kind == b"Z" and (message[-1:] == b"I" or self._mode == "statement")
                if over:
                    # Between transactions a client holds no session. Released before the client knows.
                    self._idle.append(backend)
                if kind != b"A" or self._notifications:
                    writer.write(message)
                if over:
                    return

        await _first_of(requests(), answers())

    def close(self) -> None:
        """Close every session of the server."""
        for backend in self._all:
            backend.writer.close()


async def _first_of(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends; the others are cancelled."""
    done, rest = await asyncio.wait(
        [asyncio.create_task(each) for each in work], return_when=asyncio.FIRST_COMPLETED
    )
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


@contextlib.asynccontextmanager
async def pooler_before(
    target: Path, *, mode: Mode, order: Order = "newest", notifications: bool = True
) -> AsyncIterator[Pooler]:
    """A running pooler. `order`: which idle session is lent first."""
    pooler = Pooler(target, mode=mode, order=order, notifications=notifications)
    server = await asyncio.start_server(pooler.accept, "127.0.0.1", 0)
    pooler.port = server.sockets[0].getsockname()[1]
    try:
        yield pooler
    finally:
        server.close()
        pooler.close()
