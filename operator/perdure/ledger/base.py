"""The base of the ledger's sides: connections, and writes that are fenced by an attempt."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.domain.records import Superseded
from perdure.ledger.database import Database, KeptConnection
from perdure.ledger.group_commit import GroupWriter
from perdure.ledger.queries import SQL
from perdure.ledger.types import AgentSession


class Side:
    """One side of `Ledger`: a group of methods for one kind of caller."""

    database: Database
    writer: GroupWriter
    outbox: KeptConnection
    outbox_written: asyncio.Event

    async def submit_fenced(
        self, session: AgentSession, name: str, arguments: tuple[Any, ...], *, size: int = 0
    ) -> Any:
        """The row of a write for an agent, once it is durable. `size`: bytes of large arguments."""
        order = session.shard, session.workflow_uid
        return await self.writer.submit(SQL[name], arguments, order=order, size=size)


def fence_arguments(session: AgentSession) -> tuple[str, str, int, int]:
    """The first parameters of every write for an agent: the attempt that the statement checks."""
    return session.workflow_uid, session.key.step, session.key.index, session.attempt


def superseded(session: AgentSession) -> Superseded:
    """The error of a write whose attempt is closed, or not the task's newest."""
    return Superseded(f"attempt {session.attempt} of {session.namespace}/{session.task_name} is over")
