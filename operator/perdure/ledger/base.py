"""What the sides of the ledger share."""

from __future__ import annotations

import asyncio

from perdure.ledger.database import Database, KeptConnection
from perdure.ledger.group_commit import GroupWriter


class Side:
    """One side of `Ledger`: a group of methods for one kind of caller."""

    database: Database
    writer: GroupWriter
    outbox: KeptConnection
    outbox_written: asyncio.Event
