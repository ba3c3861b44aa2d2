"""Port to the heartbeats of an agent that computes.

An agent whose own code keeps the event loop busy, with a synchronous model call for example, sends no
heartbeat from that loop. A backstop sends heartbeats in its place, so that `idleTimeout` does not stop an
agent that works.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from perdure_agent._environment import Environment
from perdure_agent._http import Answer, NoAnswer
from perdure_agent._transport import TryAgain, refusal
from perdure_agent.errors import AgentError, Superseded

log = logging.getLogger("perdure_agent")

#: Time that the event loop may be late with a heartbeat before the backstop sends one. Seconds.
SLACK: Final = 1.0
#: Longest time between heartbeats while none gets through. Progress waits for the first that does. Seconds.
AWAY_INTERVAL: Final = 2.0


class Backstop(Protocol):
    """Heartbeats of one attempt, sent while the event loop sends none."""

    def postpone(self) -> None:
        """State that the event loop sends a heartbeat or progress now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BackstopOrder:
    """What a backstop sends, how often, and the receiver of what it learns."""

    environment: Environment
    #: `Options.heartbeat_interval`. Seconds.
    interval: float
    #: True once the attempt's end was reported: a heartbeat would then be answered with 409 although no other
    #: attempt has taken over. Called from the backstop's thread.
    reporting: Callable[[], bool]
    #: Called in the event loop, as soon as the loop runs again.
    on_superseded: Callable[[Superseded], None]


OpenBackstop = Callable[[BackstopOrder], AbstractAsyncContextManager[Backstop]]


class Beats:
    """Times of a backstop's heartbeats, and what follows from their answers.

    `postpone` may be called from another thread: each attribute is written whole.
    """

    def __init__(self, order: BackstopOrder, *, now: float) -> None:
        self._order = order
        self._last = now
        self._away = False

    def due(self) -> float:
        """Time of the next heartbeat, unless the event loop sends one before."""
        interval = self._order.interval
        if self._away:
            return self._last + min(AWAY_INTERVAL, interval)
        return self._last + interval + min(SLACK, interval)

    def postpone(self, *, now: float) -> None:
        """Count a heartbeat or progress of the event loop."""
        self._last = now
        self._away = False

    def beat(self, exchange: Callable[[], Answer], *, now: float) -> Superseded | None:
        """Send one heartbeat, unless the attempt's end was reported.

        Returns the refusal that ends the attempt. All others, and an absent gateway, are left to the event
        loop.
        """
        self.postpone(now=now)
        if self._order.reporting():
            return None
        try:
            answer = exchange()
            if answer.status >= 300:
                raise refusal(answer)
        except Superseded as error:
            return error
        except (NoAnswer, TryAgain) as error:
            log.debug("no heartbeat got through: %s", error)
            self._away = True
        except AgentError as error:
            log.warning("heartbeat refused: %s", error)
        return None


@asynccontextmanager
async def no_backstop(_: BackstopOrder) -> AsyncIterator[Backstop]:
    """A backstop that sends nothing: for local mode, and for agents that want none."""
    yield _Nothing()


class _Nothing:
    def postpone(self) -> None:
        """Nothing is postponed."""
