"""Calls between processes.

A call is a message to a server, carried out there at one moment, and an answer. What has been sent is carried
out whatever becomes of the sender: a killed operator's last request still arrives, and a request that was
given up may arrive later than the one sent after it.
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

#: Where everything runs that is no process of ours: it is never frozen.
OUTSIDE: Final = contextvars.Context()
#: Seconds after which a caller gives up waiting for an answer.
PATIENCE = 10.0


class Server:
    """What answers calls: it may be away, and then refuses connections, or hang, and then says nothing."""

    def __init__(self, name: str, faults: Faults, unreachable: Callable[[str], Exception]) -> None:
        self.name = name
        self.faults = faults
        self.away = False
        self.hangs = False
        self._unreachable = unreachable
        #: What happens while it is away in order to be told when it is back.
        self.back = asyncio.Event()
        self.back.set()

    def leave(self, *, hanging: bool) -> None:
        self.away, self.hangs = True, hanging
        self.back.clear()

    def come_back(self) -> None:
        self.away = self.hangs = False
        self.back.set()

    async def call(self, effect: Callable[[], Result], *, may_be_late: bool = True) -> Result:
        """Have `effect` carried out here, and return what it gives or raises.

        `may_be_late`: it may be carried out although its sender has been told that it failed.
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
                # It is still on its way when its sender has long given it up.
                late = faults.between(0.05, 8.0)
                loop.call_later(delay + late, self._carry_out, effect, None, False, context=OUTSIDE)
                return await self._refuse(delay)
            elif faults.happens("answer lost"):
                lost = True
            elif faults.happens("slow"):
                # Less than a leader keeps to spare before its Lease may be another's.
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
