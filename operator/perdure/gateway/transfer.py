"""An answer that may be large: sent as it is read, and read as fast as the client takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Transfer(Response):
    """A response of `size` bytes, which come in pieces.

    What goes wrong on the way leaves the answer unfinished, which its length tells the client.
    """

    def __init__(
        self, pieces: Callable[[], AsyncIterator[bytes]], *, size: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(headers={**headers, "Content-Length": str(size)})
        self.size = size
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            # The server waits, before each piece, until the previous ones have left its buffer.
            async for piece in self._pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
