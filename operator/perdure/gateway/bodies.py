"""Reading request bodies with their limits enforced while they arrive, and a bound on all of them together.

An agent that streams without end, or two hundred that restore at once after a node was lost, must not cost
the gateway its memory: that would take every other agent's checkpoints with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from starlette.types import Message, Receive

from perdure.gateway.limits import Limits
from perdure.gateway.problems import Problem, ProblemType


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


class Hold:
    """A share of a budget. Release it once; releasing again does nothing."""

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self._size = size

    def shrink(self, size: int) -> None:
        """Give back what turned out not to be needed."""
        if size < self._size:
            self._budget.give_back(self._size - size)
            self._size = size

    def release(self) -> None:
        self.shrink(0)


class Budget:
    """How much there may be at once: bytes of bodies in memory, or uploads. First come, first served."""

    def __init__(self, total: int, *, wait: float) -> None:
        self._total = total
        self._free = total
        self._wait = wait
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def free(self) -> int:
        return self._free

    async def hold(self, size: int) -> Hold:
        """Wait for a share of that size. Raises Problem(busy) if they do not come free in time."""
        size = min(size, self._total)  # a body larger than the whole budget goes alone
        try:
            async with asyncio.timeout(self._wait):
                # The lock makes a queue: otherwise small bodies would keep a large one waiting for ever.
                async with self._turn:
                    while self._free < size:
                        self._released.clear()
                        await self._released.wait()
                    self._free -= size
        except TimeoutError:
            raise Problem(
                ProblemType.BUSY, "body: the gateway holds as many large bodies as it can; send it again"
            ) from None
        return Hold(self, size)

    def give_back(self, size: int) -> None:
        self._free += size
        self._released.set()


class Body:
    """The body of one request. Read it once, or discard it."""

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

    async def read(self, limit: int, *, what: str, budget: Budget | None = None) -> tuple[bytes, Hold | None]:
        """The whole body, at most `limit` bytes. `what` names it in errors.

        With a budget, a large body waits for its share before it is read; whoever gets the share releases it.
        Raises Problem (too-large, too-slow, busy), ClientGone.
        """
        self.refuse_larger(limit, what=what)
        expected = limit if self.declared is None else self.declared
        hold = None
        if budget is not None and expected > self._limits.uncounted:
            hold = await budget.hold(expected)
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
            hold.shrink(len(content))
        return content, hold

    async def begin(self, limit: int, *, what: str) -> bytes:
        """The first bytes of a body that does not say how long it is: more than `limit`, unless it has ended.

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
        """The body as it arrives, `first` included; not more of it than `limit` bytes.

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

    def refuse_larger(self, limit: int, *, what: str) -> None:
        """Raises Problem(too-large) if the client says that it sends more."""
        if self.declared is not None and self.declared > limit:
            raise self._too_large(limit, what)

    @property
    def ended(self) -> bool:
        return self._ended

    async def _timely(self, expected: int, what: str) -> AsyncIterator[bytes]:
        deadline = asyncio.get_running_loop().time() + self._limits.transfer_time(expected)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await self._next()
            except TimeoutError:
                raise self._too_slow(what) from None
            if piece is None:
                return
            yield piece

    async def discard(self) -> bool:
        """Take in what is left of a body that will not be used, within reason. True if it has ended.

        A client that is still sending would otherwise see its connection reset in place of our answer.
        """
        if not self._invited and not self._ended:
            return False  # the client waits for "100 Continue": it reads our answer before it sends anything
        allowance = self._limits.discarded
        try:
            async with asyncio.timeout(self._limits.body_time):
                while allowance > 0 and (piece := await self._next()) is not None:
                    allowance -= len(piece)
        except (TimeoutError, ClientGone):
            return False
        return self._ended

    async def _collect(self, limit: int, what: str) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while (piece := await self._next()) is not None:
            size += len(piece)
            if size > limit:
                raise self._too_large(limit, what)
            pieces.append(piece)
        # Most bodies come in one piece, which is not copied again.
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
        return Problem(ProblemType.TOO_SLOW, f"{what}: the body stopped arriving; send it again")

    @staticmethod
    def _too_large(limit: int, what: str) -> Problem:
        return Problem(
            ProblemType.TOO_LARGE,
            f"{what}: at most {limit} bytes; send less, or a reference to it",
            members={"limit": limit},
        )
