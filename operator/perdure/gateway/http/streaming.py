"""Responses whose bodies are produced while they are sent, no faster than the client reads them.

Back-pressure comes from the server: `send` returns once the transport's buffer is below its high-water mark.
A producer is asked for a chunk only after the chunk before was accepted.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from perdure.gateway.http.limits import Limits

Chunks = Callable[[], AsyncIterator[bytes]]

_END: Final[dict[str, object]] = {"type": "http.response.body", "body": b""}


class StreamedResponse(Response, ABC):
    """A response that sends itself, under time limits of its own.

    An error on the way leaves the body without its end, so that the client can distinguish a body that was
    cut off from a complete one.
    """

    @abstractmethod
    async def stream(
        self, scope: Scope, receive: Receive, send: Send, *, limits: Limits, stop: asyncio.Event
    ) -> None:
        """Send the response. `stop` is set when the server stops.

        Raises TimeoutError if the client reads too slowly, and what the producer raises.
        """


class Transfer(StreamedResponse):
    """A response of `size` bytes. A stop of the server waits for its end."""

    def __init__(self, chunks: Chunks, *, size: int, headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "Content-Length": str(size)})
        self.size = size
        self._chunks = chunks

    async def stream(
        self, scope: Scope, receive: Receive, send: Send, *, limits: Limits, stop: asyncio.Event
    ) -> None:
        """See StreamedResponse. The whole transfer has one deadline, from its size."""
        async with asyncio.timeout(limits.transfer_time(self.size)):
            await send(_start(self))
            if scope["method"] != "HEAD":
                async for chunk in self._chunks():
                    # A client that reads nothing would hold memory until the end of the whole time.
                    async with asyncio.timeout(limits.rate_time):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send(_END)


class Stream(StreamedResponse):
    """A response without a known size, such as server-sent events or a log that is followed.

    The stream ends in order, so that the client may open another one, when the producer ends, when the server
    stops, and after `Limits.stream_time`. The stream ends at once when the client is gone, and is cut off
    when the client does not accept a chunk in time or the producer fails. In every case the producer is
    closed: its `finally` blocks run before the request ends.
    """

    def __init__(
        self,
        chunks: Chunks,
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        keep_alive: bytes | None = None,
    ) -> None:
        """`keep_alive` is sent after every `Limits.stream_idle` seconds without a chunk."""
        super().__init__(headers=headers, media_type=media_type)
        # The base class declares an empty body.
        del self.headers["content-length"]
        self._chunks = chunks
        self._keep_alive = keep_alive

    async def stream(
        self, scope: Scope, receive: Receive, send: Send, *, limits: Limits, stop: asyncio.Event
    ) -> None:
        """See StreamedResponse. Every message has a deadline, from its size."""

        async def send_in_time(message: dict[str, object], *, size: int = 0) -> None:
            # The server holds a message back until the client has read the ones before: also the first, after
            # an earlier response on the connection, and the last.
            async with asyncio.timeout(limits.transfer_time(size)):
                await send(message)

        await send_in_time(_start(self))
        if scope["method"] == "HEAD":
            await send_in_time(_END)
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + limits.stream_time
        gone = loop.create_task(_client_gone(receive), name="stream-client-gone")
        stopped = loop.create_task(stop.wait(), name="stream-stopped")
        producer = self._chunks()
        upcoming: asyncio.Task[bytes | None] | None = None
        try:
            while True:
                upcoming = upcoming or loop.create_task(_next(producer), name="stream-chunk")
                left = end - loop.time()
                # The wait, and not the producer, is interrupted: a chunk is either sent whole or never taken.
                await asyncio.wait(
                    {upcoming, gone, stopped},
                    timeout=min(left, limits.stream_idle),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if gone.done():
                    return
                if upcoming.done():
                    chunk, upcoming = upcoming.result(), None
                    if chunk is None:
                        break
                elif stopped.done() or loop.time() >= end:
                    break
                elif self._keep_alive is not None:
                    chunk = self._keep_alive
                else:
                    continue
                if chunk:
                    message = {"type": "http.response.body", "body": chunk, "more_body": True}
                    await send_in_time(message, size=len(chunk))
                # A producer that always has a chunk ready must not outlive the stop or the deadline.
                if stopped.done() or loop.time() >= end:
                    break
            await send_in_time(_END)
        finally:
            await _cancelled(gone, stopped, upcoming)
            if hasattr(producer, "aclose"):
                await producer.aclose()


class EventStream(Stream):
    """Server-sent events (WHATWG HTML, section 9.2). See `event` for the chunks."""

    def __init__(self, chunks: Chunks, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            chunks,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", **(headers or {})},
            keep_alive=b":\n\n",
        )


def event(data: object, *, name: str | None = None, number: str | None = None) -> bytes:
    """One server-sent event with JSON data. `number` is what a client sends back as Last-Event-ID."""
    lines = []
    if number is not None:
        lines.append(b"id: " + number.encode())
    if name is not None:
        lines.append(b"event: " + name.encode())
    # Compact JSON has no line breaks, which would need a `data:` field each.
    lines.append(b"data: " + orjson.dumps(data))
    return b"\n".join(lines) + b"\n\n"


def _start(response: Response) -> dict[str, object]:
    return {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}


async def _next(producer: AsyncIterator[bytes]) -> bytes | None:
    return await anext(producer, None)


async def _client_gone(receive: Receive) -> None:
    # The request's body has ended. The server may still deliver its empty end before the disconnect.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Task[object] | None) -> None:
    """Cancel tasks and wait for their ends: a generator cannot be closed while its `anext` runs."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    for task in running:
        if not task.cancelled():
            # Retrieved, so that asyncio does not report an error of a stream that has no reader any more.
            task.exception()
