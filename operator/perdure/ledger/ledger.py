"""The ledger as one class, for operator, gateway, relay and CLI."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from perdure.domain.records import LedgerUnavailable
from perdure.ledger.agent_reports import AgentReportSide
from perdure.ledger.checkpoints import CheckpointSide
from perdure.ledger.database import Database, KeptConnection
from perdure.ledger.events import ReaderSide
from perdure.ledger.group_commit import GroupWriter
from perdure.ledger.migrate import migrations
from perdure.ledger.operator import OperatorSide
from perdure.ledger.queries import SQL
from perdure.ledger.signals import SignalSide

#: Seconds that closing waits for running writes.
DRAIN_TIMEOUT: Final = 5.0


class Ledger(OperatorSide, AgentReportSide, CheckpointSide, SignalSide, ReaderSide):
    """The ledger: an async context manager. Without a server calls raise LedgerUnavailable.

    Implements `perdure.control.ports.LedgerPort` and the methods for gateway, relay and CLI. Every method may
    raise LedgerUnavailable; whether a write took effect is then unknown.
    """

    def __init__(self, url: str, *, pool_size: int = 8, timeout: float = 10.0) -> None:
        """`url`: `postgresql://…`. `timeout`: seconds for one statement.

        `pool_size` counts connections for reading and for large checkpoints; the writer, the
        relay and each consumer of `wakes()` have one more each.
        """
        self.database = Database(url, size=pool_size, timeout=timeout)
        self.writer = GroupWriter(self.database.connect, on_held=self.database.end_stuck)
        self.outbox = KeptConnection(self.database.connect, on_held=self.database.end_stuck)
        #: Set when this process put events into the outbox; the relay clears it before it reads. Events of
        #: other processes set it through `wakes()`, which may miss some, so the relay polls as well.
        self.outbox_written = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.writer.close(timeout=DRAIN_TIMEOUT)
        finally:
            await self.outbox.close()
            await self.database.close(timeout=DRAIN_TIMEOUT)

    async def ready(self) -> None:
        """Readiness: returns if the server answers and the schema has all migrations of this code."""
        applied = {row["name"] for row in await self.database.fetch(SQL["applied"])}
        missing = [migration.name for migration in migrations() if migration.name not in applied]
        if missing:
            raise LedgerUnavailable(f"the ledger's schema lacks {', '.join(missing)}: run `perdure migrate`")
