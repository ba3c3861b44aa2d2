"""The gateway's side of the ledger: what agents write, each statement fenced by its own attempt."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from perdure.domain.records import Report, Superseded
from perdure.ledger import payload, rows
from perdure.ledger.base import Side
from perdure.ledger.queries import SQL
from perdure.ledger.types import AgentSession, Checkpoint, CorruptCheckpoint

#: Checkpoints that a task keeps.
KEPT_CHECKPOINTS: Final = 10
#: Bytes as stored from which a checkpoint goes on a connection of its own: in a batch it would hold up
#: everybody's small ones.
LARGE: Final = 256 * 1024
#: Slowest transfer that is waited for, in bytes a second.
_SLOWEST: Final = 1024 * 1024


class AgentSide(Side):
    """Facts from agents. No phase changes here: the operator decides about phases."""

    async def attempt_for_pod(self, namespace: str, pod_uid: str) -> AgentSession | None:
        """The attempt that this pod is; None if the pod is not (yet) known to be one of ours."""
        row = await self.database.fetchrow(SQL["attempt_for_pod"], namespace, rows.text(pod_uid))
        return None if row is None else rows.session(row)

    async def write_checkpoint(
        self,
        session: AgentSession,
        data: bytes,
        *,
        content_type: str,
        label: str | None = None,
        now: datetime,
    ) -> int:
        """Keep a checkpoint; returns its sequence number once it is durable. Raises Superseded."""
        stored = await payload.pack(data)
        arguments = (
            *_attempt(session),
            now,
            rows.text(content_type),
            None if label is None else rows.text(label),
            len(data),
            len(stored.data),
            stored.encoding,
            stored.sha256,
            stored.data,
            KEPT_CHECKPOINTS,
        )
        if len(stored.data) > LARGE:
            row = await self.database.fetchrow(
                SQL["write_checkpoint"],
                *arguments,
                timeout=self.database.timeout + len(stored.data) / _SLOWEST,
            )
        else:
            row = await self._write(session, "write_checkpoint", arguments, size=len(stored.data))
        if row["sequence"] is None:
            raise _superseded(session)
        self.outbox_written.set()
        sequence: int = row["sequence"]
        return sequence

    async def latest_checkpoint(self, session: AgentSession) -> Checkpoint | None:
        """The task's newest checkpoint, whichever attempt wrote it. Raises CorruptCheckpoint."""
        key = session.key
        return await _checkpoint(
            await self.database.fetchrow(
                SQL["latest_checkpoint"], session.workflow_uid, key.step, key.index, timeout=_READ_TIMEOUT
            )
        )

    async def checkpoint(self, session: AgentSession, sequence: int) -> Checkpoint | None:
        """One checkpoint; None if it never was, or is no longer kept. Raises CorruptCheckpoint."""
        key = session.key
        return await _checkpoint(
            await self.database.fetchrow(
                SQL["one_checkpoint"],
                session.workflow_uid,
                key.step,
                key.index,
                sequence,
                timeout=_READ_TIMEOUT,
            )
        )

    async def progress(
        self, session: AgentSession, percent: float | None, message: str | None, now: datetime
    ) -> None:
        """Note progress, with an event for each call. None leaves what this attempt said before.

        Raises Superseded.
        """
        data = rows.dumps({"percent": percent, "message": message})
        message = None if message is None else rows.text(message)
        row = await self._write(session, "progress", (*_attempt(session), now, percent, message, data))
        if not row["written"]:
            raise _superseded(session)
        self.outbox_written.set()

    async def heartbeat(self, session: AgentSession, now: datetime) -> None:
        """Note a sign of life. No event, and nobody is woken. Raises Superseded."""
        row = await self._write(session, "heartbeat", (*_attempt(session), now))
        if not row["written"]:
            raise _superseded(session)

    async def report(self, session: AgentSession, report: Report) -> None:
        """Note how the agent says it ended. The first report of an attempt stands.

        Repeating it, changed or not, returns as the first one did, even after the attempt was closed:
        agents retry when an answer is lost. Raises Superseded if the attempt was closed without a report.
        """
        arguments = (*_attempt(session), rows.dumps(rows.report_json(report)))
        row = await self._write(session, "report", arguments)
        if not row["written"]:
            raise _superseded(session)

    async def _write(
        self, session: AgentSession, name: str, arguments: tuple[Any, ...], *, size: int = 0
    ) -> Any:
        return await self.writer.submit(
            SQL[name], arguments, order=(session.shard, session.workflow_uid), size=size
        )


#: Seconds to read a checkpoint, which may be large.
_READ_TIMEOUT: Final = 60.0


def _attempt(session: AgentSession) -> tuple[str, str, int, int]:
    return session.workflow_uid, session.key.step, session.key.index, session.attempt


def _superseded(session: AgentSession) -> Superseded:
    return Superseded(f"attempt {session.attempt} of {session.namespace}/{session.task_name} is over")


async def _checkpoint(row: Any) -> Checkpoint | None:
    if row is None:
        return None
    stored = payload.Stored(data=row["data"], encoding=row["encoding"], sha256=row["sha256"])
    try:
        data = await payload.unpack(stored, size=row["size"])
    except CorruptCheckpoint as error:
        raise CorruptCheckpoint(f"checkpoint {row['sequence']}: {error}") from error
    return Checkpoint(
        sequence=row["sequence"],
        attempt=row["attempt"],
        created_at=row["created_at"],
        content_type=row["content_type"],
        label=row["label"],
        sha256=stored.sha256.hex(),
        data=data,
    )
