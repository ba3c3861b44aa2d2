"""Request bodies, whose limits of size and time are enforced while the bytes arrive.

A client that streams without end must not exhaust the gateway's memory, and a client that stalls must not
hold a connection for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.types import Message, Receive

from perdure.gateway.authn import Owner
from perdure.gateway.http.budget import Budget, Hold
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import HttpProblem, Problem

#: The owner of bodies in tests and tools.
NO_OWNER: Final = Owner("", "")

BodyModel = TypeVar("BodyModel", bound=BaseModel)


class ClientGone(Exception):
    """The client closed the connection: no response can be delivered."""


class Body:
    """The body of one request. Read the body once, or discard it."""

    def __init__(self, headers: Mapping[bytes, bytes], receive: Receive, *, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        #: From Content-Length, which the server has checked; None if the client sends chunks.
        self.declared: int | None
        if b"content-length" in headers:
            self.declared = int(headers[b"content-length"])
        else:
            self.declared = None if b"transfer-encoding" in headers else 0
        self._ended = self.declared == 0
        self._invited = headers.get(b"expect", b"").lower() != b"100-continue"

    async def read(
        self, limit: int, *, what: str, budget: Budget | None = None, owner: Owner = NO_OWNER
    ) -> tuple[bytes, Hold | None]:
        """The whole body, at most `limit` bytes. `what` names the body in errors.

        With a budget, a large body waits for its share before its first byte is read. The caller releases the
        share. Raises Problem (too-large, too-slow, busy), ClientGone.
        """
        self.refuse_larger(limit, what=what)
        expected = limit if self.declared is None else self.declared
        hold, copies = None, self._limits.copies
        if budget is not None and expected > self._limits.uncounted:
            hold = await budget.hold(copies * expected, owner)
        try:
            async with asyncio.timeout(self._limits.transfer_time(expected)):
                content = await self._collect(limit, what)
        except TimeoutError:
            self._release(hold)
            raise self._too_slow(what) from None
        except BaseException:
            self._release(hold)
            raise
        if hold is not None:
            hold.shrink(copies * len(content))
        return content, hold

    async def begin(self, limit: int, *, what: str) -> bytes:
        """The first bytes of a body of undeclared length: more than `limit`, unless the body ends before.

        Raises Problem(too-slow), ClientGone.
        """
        pieces: list[bytes] = []
        size = 0
        async for piece in self._timely(limit, what):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
        return b"".join(pieces)

    async def pieces(self, limit: int, *, what: str, first: bytes = b"") -> AsyncIterator[bytes]:
        """The body as it arrives, at most `limit` bytes. `first` was read before, and counts.

        Raises Problem (too-large, too-slow), ClientGone.
        """
        self.refuse_larger(limit, what=what)
        size = len(first)
        if size > limit:
            raise self._too_large(limit, what)
        if first:
            yield first
        async for piece in self._timely(limit if self.declared is None else self.declared, what):
            size += len(piece)
            if size > limit:
                raise self._too_large(limit, what)
            yield piece

    @property
    def uncounted(self) -> int:
        """Bytes up to which memory does not count."""
        return self._limits.uncounted

    def refuse_larger(self, limit: int, *, what: str) -> None:
        """Raises Problem(too-large) if the declared length exceeds `limit`."""
        if self.declared is not None and self.declared > limit:
            raise self._too_large(limit, what)

    @property
    def ended(self) -> bool:
        """True once the last byte was received."""
        return self._ended

    async def discard(self) -> bool:
        """Read the unused rest of the body, within limits. True if the body has ended.

        A client that is still sending would see a reset connection in place of the response.
        """
        if not self._invited and not self._ended:
            # The client waits for "100 Continue", and reads the response before sending anything.
            return False
        allowance = self._limits.discarded
        try:
            async with asyncio.timeout(self._limits.body_time):
                while allowance > 0 and (piece := await self._next()) is not None:
                    allowance -= len(piece)
        except (TimeoutError, ClientGone):
            return False
        return self._ended

    async def _timely(self, expected: int, what: str) -> AsyncIterator[bytes]:
        loop, limits = asyncio.get_running_loop(), self._limits
        deadline = loop.time() + limits.transfer_time(expected)
        # Bytes since the start of a window: at its end there must be enough of them.
        window, received = loop.time() + limits.rate_time, 0
        enough = min(limits.least_rate * limits.rate_time, max(1, expected / 2))
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, window)):
                    piece = await self._next()
            except TimeoutError:
                if loop.time() >= deadline or received < enough:
                    raise self._too_slow(what) from None
                window, received = window + limits.rate_time, 0
                continue
            if piece is None:
                return
            received += len(piece)
            yield piece
            # The consumer may have taken long: a client is measured only while its bytes are awaited.
            if loop.time() >= window:
                window, received = loop.time() + limits.rate_time, 0

    async def _collect(self, limit: int, what: str) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while (piece := await self._next()) is not None:
            size += len(piece)
            if size > limit:
                raise self._too_large(limit, what)
            pieces.append(piece)
        # Most bodies arrive in one piece, which is not copied.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next(self) -> bytes | None:
        """The next piece; None at the end. Raises ClientGone."""
        if self._ended:
            return None
        self._invited = True
        message: Message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    @staticmethod
    def _release(hold: Hold | None) -> None:
        if hold is not None:
            hold.release()

    @staticmethod
    def _too_slow(what: str) -> Problem:
        return Problem(HttpProblem.TOO_SLOW, f"{what}: the body stopped arriving; send it again")

    @staticmethod
    def _too_large(limit: int, what: str) -> Problem:
        return Problem(
            HttpProblem.TOO_LARGE,
            f"{what}: at most {limit} bytes; send less, or a reference to it",
            members={"limit": limit},
        )


def parse_json(content: bytes, *, example: str) -> Any:
    """The JSON value of a body. Raises Problem(invalid-json), whose detail shows `example`."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Problem(HttpProblem.INVALID_JSON, f"body: {error}; send {example}") from None


def parse(model: type[BodyModel], content: bytes, *, example: str) -> BodyModel:
    """The body as `model`. Raises Problem (invalid-json, invalid-field), whose detail shows `example`."""
    try:
        return model.model_validate(parse_json(content, example=example))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(HttpProblem.INVALID_FIELD, f"{field}: {first['msg']}; send {example}") from None
