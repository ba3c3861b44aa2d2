"""The order of an agent's checkpoints, and the checkpoint that waits while the gateway is away.

A gateway that hangs may finish an upload long after the agent has saved a newer checkpoint through another
gateway. Each checkpoint therefore carries a rising number, and the ledger refuses a late one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from perdure_agent._clock import Clock
from perdure_agent._options import Retries
from perdure_agent._payload import Payload
from perdure_agent.errors import AgentError, GatewayError, GatewayUnavailable, Superseded

log = logging.getLogger("perdure_agent")


class Save(Protocol):
    """`Backend.save`."""

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
    """Sends an agent's checkpoints one at a time, in the order of the calls.

    The spool holds one checkpoint: the newest that no caller waits for. The spool is memory, since a
    container that ends is not started again in the same pod.
    """

    def __init__(self, save: Save, *, retries: Retries, clock: Clock) -> None:
        self._save = save
        self._retries = retries
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
        """Send a checkpoint and return its sequence number once it is durable. Raises as the backend does."""
        order = self._next_order()
        async with self._turn:
            sequence = await self._save(
                payload, label=label, recoverable=recoverable, order=order, patience=patience
            )
        if self._spooled is not None and self._spooled.order < order:
            self.drop()
        return sequence

    def spool(self, payload: Payload, *, label: str | None, recoverable: bool) -> None:
        """Replace the spooled checkpoint. Raises the refusal of an earlier one."""
        self._raise_refusal()
        self._spooled = _Pending(payload, label, recoverable, self._next_order())
        self._empty.clear()
        self._arrived.set()

    def drop(self) -> None:
        """Empty the spool."""
        self._spooled = None
        self._empty.set()

    async def flush(self, *, patience: float | None) -> None:
        """Wait until the spool is empty. Raises GatewayUnavailable, or the refusal of a checkpoint."""
        try:
            async with self._clock.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            raise GatewayUnavailable("the newest checkpoint could not be sent") from None
        self._raise_refusal()

    async def run(self) -> None:
        """Send spooled checkpoints until cancelled. Raises Superseded."""
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
                    # One try at a time: after each try the spool may hold a newer checkpoint.
                    await self._save(
                        pending.payload,
                        label=pending.label,
                        recoverable=pending.recoverable,
                        order=pending.order,
                        patience=0,
                    )
            except GatewayUnavailable as error:
                log.debug("a checkpoint waits: %s", error)
                await self._clock.sleep(self._clock.jitter(delay))
                delay = min(delay * 2, self._retries.longest_delay)
                continue
            except Superseded:
                raise
            except AgentError as error:
                # Overtaken: another program of this agent has saved a newer checkpoint; this one is obsolete.
                if not (isinstance(error, GatewayError) and error.kind == "checkpoint-overtaken"):
                    log.warning("a checkpoint was refused: %s", error)
                    self._refusal = error
            delay = self._retries.first_delay
            if self._spooled is pending:
                self.drop()

    def _next_order(self) -> int:
        self._order = max(self._order + 1, self._clock.ticks())
        return self._order

    def _raise_refusal(self) -> None:
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
