"""The order in which an agent's checkpoints count, and the one that waits while the gateway is away.

A gateway that hangs may finish an upload long after the agent has saved something newer through another. Each
checkpoint therefore carries a number that rises, and the ledger refuses what comes late.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from perdure_agent._options import Retries
from perdure_agent._payload import Payload
from perdure_agent.errors import AgentError, GatewayError, GatewayUnavailable, Superseded

log = logging.getLogger("perdure_agent")


class Save(Protocol):
    """Of a backend."""

    def __call__(
        self, payload: Payload, *, label: str | None, recoverable: bool, order: int, patience: float | None
    ) -> Awaitable[int]: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    payload: Payload
    label: str | None
    recoverable: bool
    order: int


class CheckpointWriter:
    """Sends an agent's checkpoints, one at a time, in the order in which they were given.

    Its spool holds one: the newest of those that nobody waits for. It is memory, since a container that ends
    is not started again in the same pod.
    """

    def __init__(
        self,
        save: Save,
        *,
        retries: Retries,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._save = save
        self._retries = retries
        # Shared by all processes of the pod, so that an agent of several programs has one order.
        self._clock = clock
        self._order = 0
        # First come, first served.
        self._turn = asyncio.Lock()
        self._spooled: _Pending | None = None
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._refusal: AgentError | None = None

    async def save(
        self, payload: Payload, *, label: str | None, recoverable: bool, patience: float | None
    ) -> int:
        """Returns its sequence number once it is durable."""
        order = self._next_order()
        async with self._turn:
            sequence = await self._save(
                payload, label=label, recoverable=recoverable, order=order, patience=patience
            )
        if self._spooled is not None and self._spooled.order < order:
            self.drop()
        return sequence

    def spool(self, payload: Payload, *, label: str | None, recoverable: bool) -> None:
        """Have it sent soon, in place of what is still there. Raises what an earlier one was refused with."""
        self._raise_refusal()
        self._spooled = _Pending(payload, label, recoverable, self._next_order())
        self._empty.clear()
        self._arrived.set()

    def drop(self) -> None:
        """Forget what is spooled."""
        self._spooled = None
        self._empty.set()

    async def flush(self, *, patience: float | None) -> None:
        """Return when nothing is spooled. Raises GatewayUnavailable, or what it was refused with."""
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            raise GatewayUnavailable("the newest checkpoint could not be sent") from None
        self._raise_refusal()

    async def run(self) -> None:
        """Send what is spooled, until cancelled. Raises Superseded."""
        delay = self._retries.first_delay
        while True:
            await self._arrived.wait()
            pending = self._spooled
            if pending is None:
                self._arrived.clear()
                continue
            try:
                async with self._turn:
                    if self._spooled is not pending:
                        continue
                    # One try at a time: after each there may be a newer one to send in its place.
                    await self._save(
                        pending.payload,
                        label=pending.label,
                        recoverable=pending.recoverable,
                        order=pending.order,
                        patience=0,
                    )
            except GatewayUnavailable as error:
                log.debug("a checkpoint waits: %s", error)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, self._retries.longest_delay)
                continue
            except Superseded:
                raise
            except AgentError as error:
                # Another program of this agent has saved a newer one: as good as sent.
                if not (isinstance(error, GatewayError) and error.kind == "checkpoint-overtaken"):
                    log.warning("a checkpoint was refused: %s", error)
                    self._refusal = error
            delay = self._retries.first_delay
            if self._spooled is pending:
                self.drop()

    def _next_order(self) -> int:
        self._order = max(self._order + 1, self._clock())
        return self._order

    def _raise_refusal(self) -> None:
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
