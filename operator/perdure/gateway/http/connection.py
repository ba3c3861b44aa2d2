"""One HTTP connection with bounds on what a client may do before a request is whole and authenticated.

uvicorn limits neither the bytes of a head, nor the time until the head is whole, nor the number of pipelined
requests, nor the time for which a client may leave an answer unread. Each of them lets one client without a
token take the memory or the time of the whole gateway. This protocol adds the bounds and leaves HTTP itself
to uvicorn and llhttp.

Bytes are received into one buffer that all connections share, so that a connection that sends nothing has no
buffer, and one callback parses no more than `READ` bytes.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

import httptools
import orjson
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from perdure.gateway.http.connections import Place
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import MEDIA_TYPE, TYPE_BASE, HttpProblem

#: Bytes that one callback receives and parses. A body in chunks of one byte makes the parser call back for
#: each chunk: 64 KiB of them take about 12 ms.
READ: Final = 64 * 1024
#: Seconds for which, and bytes up to which, a refused client's further bytes are read and dropped. Without
#: this the kernel would reset the connection, and the client would not see why it was refused.
_LINGER: Final = 2.0
_LINGER_BYTES: Final = 1024 * 1024
#: Bytes of a header apart from its name and value: colon, space and the end of the line.
_HEADER_OVERHEAD: Final = 4
#: Requests of one connection that wait behind the one that is answered.
_QUEUED: Final = 1


class _Part(Enum):
    """The part of a request that the parser expects."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class _Refused(Exception):
    """Raised in a callback of the parser, to end the parsing of the bytes at hand."""

    def __init__(self, problem: HttpProblem | None, detail: str = "") -> None:
        """Without a problem, the requests that are under way are answered and nothing else is read."""
        super().__init__(detail)
        self.problem = problem
        self.detail = detail


class _Flow(FlowControl):
    """Flow control that never reads again once the connection is `deaf`."""

    deaf = False

    def resume_reading(self) -> None:
        if not self.deaf:
            super().resume_reading()


class BoundedConnection(HttpToolsProtocol, asyncio.BufferedProtocol):
    """uvicorn's protocol with bounds. See the module."""

    flow: _Flow

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        app: ASGIApp,
        place: Place,
        limits: Limits,
        buffer: bytearray,
    ) -> None:
        """`buffer` has `READ` bytes. `place` is given back when the connection ends."""
        super().__init__(config, server_state, {})
        self.app = app
        self._place = place
        self._limits = limits
        self._buffer = memoryview(buffer)
        self._part = _Part.NOTHING
        #: Bytes of the URL and of the whole headers, trailers included, of the request that is parsed.
        self._parsed = 0
        #: Bytes that arrived of a head that is not whole: the parser says nothing of an unfinished header.
        self._received = 0
        #: Heads that began in the bytes at hand.
        self._begun = 0
        self._head_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._end_timer: TimerHandle | None = None
        #: Bytes that are still read and dropped; None while requests are parsed.
        self._dropping: int | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type] # servers get transports of streams
        self.flow = _Flow(self.transport)
        self._place.end_with(self._abort)
        self._head_timer = self.loop.call_later(self._place.head_time, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        # uvicorn cancels this timer only after an orderly end.
        self._unset_keepalive_if_required()
        self._place.release()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._end_soon()

    def eof_received(self) -> None:
        # The transport closes itself once its buffer was sent, which never happens if the client reads
        # nothing.
        self._end_soon()

    def _abort(self) -> None:
        self.transport.abort()

    def _close(self) -> None:
        """Close after what was written has been sent, or at once if the client does not read it."""
        self.transport.close()
        self._end_soon()

    def _end_soon(self) -> None:
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(self._limits.write_time, self._abort)

    # --- bytes that arrive

    def get_buffer(self, sizehint: int) -> memoryview:
        """See BufferedProtocol. The transport fills it and calls `buffer_updated` in the same callback."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._dropping is not None:
            self._drop(nbytes)
            return
        self._unset_keepalive_if_required()
        before, self._begun = self._part, 0
        try:
            self.parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserUpgrade:
            # The request is answered as if it had not asked. The parser cannot go on behind it.
            self._answer_and_end()
            return
        except httptools.HttpParserError as error:
            refused = error.__context__ if isinstance(error.__context__, _Refused) else None
            self._refuse(
                refused or _Refused(HttpProblem.INVALID_REQUEST, "this is not HTTP/1.1; check the client")
            )
            return
        if self._part is _Part.HEAD or (self._part is _Part.NOTHING and self._idle()):
            # Only what is certainly of this head counts: earlier bytes may be those of another request.
            if before is _Part.HEAD and not self._begun:
                self._received += nbytes
            elif before is _Part.NOTHING and self._begun <= 1:
                self._received = nbytes
            if self._received > self._limits.head:
                self._refuse(self._head_too_large())
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(self._limits.head_time, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """The same for uvloop, which takes every subclass of `Protocol` for one without a buffer."""
        for start in range(0, len(data), READ):
            # What follows a refusal is counted as dropped; after the end of the connection nothing is read.
            if self.transport.is_closing():
                return
            piece = data[start : start + READ]
            self._buffer[: len(piece)] = piece
            self.buffer_updated(len(piece))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = _Part.HEAD
        self._begun += 1
        self._parsed = self._received = 0

    def on_url(self, url: bytes) -> None:
        self._parsed += len(url)
        if self._parsed > self._limits.url:
            raise _Refused(
                HttpProblem.URL_TOO_LONG, f"URL: at most {self._limits.url} bytes; send less in the query"
            )
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Also called for trailers, which come after the body.
        self._parsed += len(name) + len(value) + _HEADER_OVERHEAD
        if self._parsed > self._limits.head or len(self.headers) >= self._limits.headers:
            raise self._head_too_large()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._part = _Part.BODY
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if len(self.pipeline) >= _QUEUED:
            # Queued requests hold memory that no budget counts. A client that pipelines repeats what was not
            # answered.
            raise _Refused(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._part = _Part.NOTHING

    def _idle(self) -> bool:
        """True if no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _head_too_large(self) -> _Refused:
        limits = self._limits
        return _Refused(
            HttpProblem.HEAD_TOO_LARGE,
            f"headers: at most {limits.head} bytes and {limits.headers} headers; send fewer or shorter ones",
        )

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._part is _Part.HEAD:
            self._refuse(
                _Refused(
                    HttpProblem.HEAD_TOO_SLOW,
                    f"headers: a request's head must be whole within {self._limits.head_time:g} s; "
                    "send it again",
                )
            )
        elif self._idle():
            self._close()

    # --- answers

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            # uvicorn has closed it: a client that reads nothing must not hold it open.
            self._end_soon()
        elif self._part is _Part.BODY and self._idle():
            # The body of an answered request is of no use, and the next request comes after it.
            self._linger()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_time, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    # --- the end of a connection that broke a bound

    def _refuse(self, refused: _Refused) -> None:
        alone = not self.pipeline and not self._idle() and not self.cycle.response_started
        if refused.problem is not None and alone and self.cycle.more_body:
            # The fault is in the body of the only request: it gets this answer in place of the handler's.
            self._disconnect(self.cycle)
        elif refused.problem is None or not self._idle():
            # The place of the answer is behind those that are not complete.
            self._answer_and_end()
            return
        self.transport.write(_raw_response(refused.problem, refused.detail))
        self._linger()

    def _answer_and_end(self) -> None:
        """Answer the requests that are under way, read nothing else, and close."""
        self.flow.pause_reading()
        self.flow.deaf = True
        self._dropping = 0
        if self._idle():
            self._close()
            return
        cycle = self.pipeline[0][0] if self.pipeline else self.cycle
        cycle.keep_alive = False
        if cycle.more_body:
            # The rest of its body will not come.
            self._disconnect(cycle)
            self._end_soon()

    @staticmethod
    def _disconnect(cycle: RequestResponseCycle) -> None:
        """Let the handler of a request end as if its client were gone."""
        cycle.disconnected = True
        cycle.message_event.set()

    def _linger(self) -> None:
        """Send what was written, and close once the client has had time to read it."""
        self._unset_keepalive_if_required()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._dropping = _LINGER_BYTES
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(_LINGER, self._abort)

    def _drop(self, size: int) -> None:
        assert self._dropping is not None
        self._dropping -= size
        if self._dropping < 0:
            self._abort()

    # --- what uvicorn would log: a client must not be able to fill the log

    def _unsupported_upgrade_warning(self) -> None:
        pass


def _raw_response(problem: HttpProblem, detail: str) -> bytes:
    """An answer without an application: the request was never whole."""
    body = orjson.dumps(
        {
            "type": TYPE_BASE + problem.slug,
            "title": problem.title,
            "status": problem.status,
            "detail": detail,
        }
    )
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
