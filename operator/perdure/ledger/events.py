"""The part of the ledger for the relay and for readers: events, the outbox, and runs by name."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.domain.records import Event, OutboxRow, RunKind, RunRecord
from perdure.ledger import rows
from perdure.ledger.base import Side
from perdure.ledger.queries import SQL

#: Sorts before every uid that a run can have.
_NO_UID = "00000000-0000-0000-0000-000000000000"


class ReaderSide(Side):
    """Methods that change no run."""

    async def outbox_batch(self, limit: int, *, skip: Sequence[int] = ()) -> list[OutboxRow]:
        """The oldest unpublished events except those of the ids `skip`; of one run in the order of their
        numbers.

        Ids of different runs may become visible out of order, so a gap between ids has no meaning: pass
        exactly the published ids to `outbox_done`.
        """
        return [
            rows.outbox_row(row) for row in await self.outbox.fetch(SQL["outbox_batch"], limit, list(skip))
        ]

    async def outbox_turns(
        self, limit: int, *, share: int, skip: Sequence[int] = (), held: Sequence[str] = ()
    ) -> list[OutboxRow]:
        """As `outbox_batch`, with the namespaces in turns: the first event of each, then the second of each.

        At most `share` events of one namespace, and none of the namespaces `held`.
        """
        found = await self.outbox.fetch(SQL["outbox_turns"], limit, list(skip), share, list(held))
        return [rows.outbox_row(row) for row in found]

    async def outbox_done(self, ids: Sequence[int]) -> None:
        """Delete published events from the outbox."""
        await self.outbox.fetch(SQL["outbox_done"], list(ids))

    async def events(self, uid: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events of a run with numbers above `after`, in order; empty for an unknown run."""
        return [rows.event(row) for row in await self.database.fetch(SQL["events"], uid, after, limit)]

    async def published(self, *, after: str | None = None, limit: int = 1000) -> list[tuple[str, int]]:
        """All runs, live and retained, by uid: (uid, number up to which its events have left the outbox).

        `after`: the last uid of the previous page; None for the first page.
        """
        found = await self.database.fetch(SQL["published"], after or _NO_UID, limit)
        return [(str(row["uid"]), row["sequence"]) for row in found]

    async def find_run(self, namespace: str, name: str, *, kind: RunKind | None = None) -> RunRecord | None:
        """The newest run of that name; without `kind` a Workflow takes precedence over an AgentTask."""
        row = await self.database.fetchrow(SQL["find_run"], namespace, name, kind)
        return None if row is None else rows.run_record(row)
