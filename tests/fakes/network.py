"""Calls between processes.

A call is a request, its execution by a server at one moment, and a response. A request that was sent is
executed even if its sender is killed: the last request of a killed operator still arrives, and a request that
has timed out may arrive after the one that was sent next.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final, TypeVar

from perdure.domain.records import LedgerError, LedgerUnavailable
from perdure.kube.errors import ApiError
from tests.fakes.faults import Faults

Result = TypeVar("Result")

#: The context of everything that is no simulated process: it is never frozen.
OUTSIDE: Final = contextvars.Context()
#: Seconds after which a caller gives up.
PATIENCE = 10.0


class Server:
    """A server. While away it refuses connections; while hanging it never responds."""

    def __init__(self, name: str, faults: Faults, unreachable: Callable[[str], Exception]) -> None:
        self.name = name
        self.faults = faults
        self.away = False
        self.hangs = False
        self._unreachable = unreachable
        #: Set while the server is up.
        self.back = asyncio.Event()
        self.back.set()

    def leave(self, *, hanging: bool) -> None:
        self.away, self.hangs = True, hanging
        self.back.clear()

    def come_back(self) -> None:
        self.away = self.hangs = False
        self.back.set()

    async def call(self, effect: Callable[[], Result], *, may_be_late: bool = True) -> Result:
        """Execute `effect` on the server, and return what it returns, or raise what it raises.

        `may_be_late`: the request may be executed after its sender has seen it fail.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Exception | None, Result | None]] = loop.create_future()
        faults = self.faults
        delay, lost = faults.between(0.0005, 0.008), False
        if not faults.quiesced:
            if self.hangs:
                delay, lost = PATIENCE, True
            elif (faults.error_bursts[self.name] and faults.chance(0.5)) or faults.happens("refused"):
                return await self._refuse(delay)
            elif may_be_late and faults.happens("late"):
                # The request is still in flight when its sender has given up.
                late = faults.between(0.05, 8.0)
                loop.call_later(delay + late, self._carry_out, effect, None, False, context=OUTSIDE)
                return await self._refuse(delay)
            elif faults.happens("answer lost"):
                lost = True
            elif faults.happens("slow"):
                # Shorter than the margin of a leader before its Lease can be taken.
                delay = faults.between(0.1, 3.5)
        loop.call_later(delay, self._carry_out, effect, answer, lost, context=OUTSIDE)
        error, result = await answer
        if error is not None:
            raise error
        return result  # type: ignore[return-value] # there is one, if there is no error

    async def _refuse(self, delay: float) -> Result:
        await asyncio.sleep(delay)
        raise self._unreachable("fault")

    def _carry_out(
        self,
        effect: Callable[[], Result],
        answer: asyncio.Future[tuple[Exception | None, Result | None]] | None,
        lost: bool,
    ) -> None:
        outcome: tuple[Exception | None, Result | None]
        if self.away:
            outcome = self._unreachable("away"), None
        else:
            try:
                outcome = None, effect()
            except (ApiError, LedgerError) as error:
                outcome = error, None
        if lost:
            outcome = self._unreachable("the answer was lost"), None
        if answer is not None:
            delay = self.faults.between(0.0005, 0.008)
            asyncio.get_running_loop().call_later(delay, _answer, answer, outcome, context=OUTSIDE)


def _answer(
    answer: asyncio.Future[tuple[Exception | None, Result | None]],
    outcome: tuple[Exception | None, Result | None],
) -> None:
    if not answer.done():
        answer.set_result(outcome)


def no_connection(text: str) -> LedgerUnavailable:
    return LedgerUnavailable(text)
