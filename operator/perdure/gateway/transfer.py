"""An answer that may be large: sent in pieces, so that a slow reader holds back its own answer only."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_PIECE = 256 * 1024


class Transfer(Response):
    """A response whose body leaves as fast as the client takes it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = memoryview(self.body)
        # The server waits, before each piece, until the previous ones have left its buffer.
        for start in range(0, len(body) - _PIECE, _PIECE):
            piece = bytes(body[start : start + _PIECE])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        done = max(0, (len(body) - 1) // _PIECE * _PIECE)
        await send({"type": "http.response.body", "body": bytes(body[done:])})
