"""Checkpoints in the ledger: stored by attempts, each write fenced by its attempt, and read again."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime
from typing import Any, Final

from perdure.ledger import checkpoint_bytes, rows
from perdure.ledger.base import Side, fence_arguments, superseded
from perdure.ledger.parameters import text
from perdure.ledger.queries import SQL
from perdure.ledger.sessions import IDLE_TIMEOUT, SERVER_SHARE, abandon, set_local
from perdure.ledger.types import (
    AgentSession,
    Checkpoint,
    CheckpointInfo,
    CorruptCheckpoint,
    OpenCheckpoint,
    Overtaken,
    WrongChecksum,
)

#: Stored bytes above which a checkpoint is written on a connection of its own: in a batch it would delay the
#: small checkpoints of all other agents.
LARGE: Final = 256 * 1024
#: Slowest transfer that a deadline allows for, in bytes a second.
_SLOWEST: Final = 1024 * 1024
#: Seconds to read a checkpoint that is stored whole: one of an older version may have 64 MiB.
_READ_TIMEOUT: Final = 60.0
#: Seconds that an upload's transaction waits for the client's next piece. The gateway gives up earlier: this
#: is the end of an upload whose gateway vanished.
UPLOAD_IDLE: Final = 180.0
#: The largest bigint of Postgres.
_LARGEST: Final = 2**63 - 1


class CheckpointSide(Side):
    """The gateway's methods for checkpoints. A checkpoint changes no phase: the operator decides phases."""

    async def write_checkpoint(
        self,
        session: AgentSession,
        data: bytes | AsyncIterable[bytes],
        *,
        content_type: str,
        label: str | None = None,
        recoverable: bool = True,
        order: int | None = None,
        sha256: bytes | None = None,
        announced: bool = True,
        now: datetime,
    ) -> int:
        """Store a checkpoint; returns its sequence number once the checkpoint is durable.

        An iterator's bytes are stored as they arrive, on a connection of its own. The checkpoint counts once
        its last byte is stored; an error of the iterator leaves nothing. `order` rises within an attempt: a
        checkpoint of an older order than a stored one is refused, one of the same order and bytes is
        acknowledged again. `sha256` is the sender's checksum. Without `announced` the checkpoint has no event
        of its own: see `announce_checkpoint`. Raises Superseded, Overtaken, WrongChecksum.
        """
        about = (
            now,
            text(content_type),
            None if label is None else text(label),
        )
        kept = (session.checkpoints_per_task, recoverable, order)
        if not isinstance(data, bytes):
            return await self._write_pieces(
                session, data, about=about, kept=kept, expected=sha256, announced=announced
            )
        if len(data) > checkpoint_bytes.WHOLE:
            return await self._write_pieces(
                session, _once(data), about=about, kept=kept, expected=sha256, announced=announced
            )
        stored = await checkpoint_bytes.pack(data)
        _compare(stored.sha256, sha256)
        arguments = (
            *fence_arguments(session),
            *about,
            len(data),
            len(stored.data),
            stored.encoding,
            stored.sha256,
            stored.data,
            *kept,
            None,
            announced,
        )
        if len(stored.data) > LARGE:
            row = await self.database.fetchrow(
                SQL["write_checkpoint"], *arguments, timeout=self._time_for(len(stored.data))
            )
        else:
            row = await self.submit_fenced(session, "write_checkpoint", arguments, size=len(stored.data))
        if row["sequence"] is None:
            return await self._refused(session, order, stored.sha256)
        self.outbox_written.set()
        sequence: int = row["sequence"]
        return sequence

    async def _write_pieces(
        self,
        session: AgentSession,
        source: AsyncIterable[bytes],
        *,
        about: tuple[Any, ...],
        kept: tuple[int, bool, int | None],
        expected: bytes | None,
        announced: bool,
    ) -> int:
        pieces = checkpoint_bytes.Pieces()
        upload = uuid.uuid4()
        async with self.database.acquire() as connection:
            try:
                await connection.execute("begin")
                # The transaction waits for the client's bytes. Until the last one is stored, it locks no row
                # of the run, so it may wait longer than others.
                await set_local(connection, idle_in_transaction_session_timeout=UPLOAD_IDLE)
                # A check without a lock: the bytes of a superseded attempt need not be received.
                if not await connection.fetchval(SQL["attempt_is_open"], *fence_arguments(session)):
                    raise superseded(session)
                number = 0
                async for packed, piece in pieces.cut(source):
                    await connection.execute(SQL["write_piece"], upload, number, packed, piece)
                    number += 1
                _compare(pieces.sha256, expected)
                totals = (pieces.size, pieces.stored_size, "identity", pieces.sha256, b"")
                time = self._time_for(pieces.stored_size)
                # From here on the run's row is locked: a gateway that vanishes now must not keep it.
                await set_local(
                    connection,
                    idle_in_transaction_session_timeout=IDLE_TIMEOUT,
                    statement_timeout=time * SERVER_SHARE,
                )
                row = await connection.fetchrow(
                    SQL["write_checkpoint"],
                    *fence_arguments(session),
                    *about,
                    *totals,
                    *kept,
                    upload,
                    announced,
                )
                if row["sequence"] is None:
                    await connection.execute("rollback")
                else:
                    # The commit may have to flush all pieces to disk.
                    await connection.execute("commit", timeout=time)
            except BaseException:
                # Postgres rolls back when the connection ends; a `rollback` could fail or be cancelled, too.
                await abandon(connection)
                raise
        if row["sequence"] is None:
            return await self._refused(session, kept[2], pieces.sha256)
        self.outbox_written.set()
        sequence: int = row["sequence"]
        return sequence

    async def announce_checkpoint(self, session: AgentSession, now: datetime) -> None:
        """Write the event of the attempt's newest checkpoint, which stands for those without one before it.

        Raises Superseded.
        """
        row = await self.submit_fenced(session, "announce_checkpoint", (*fence_arguments(session), now))
        if not row["written"]:
            raise superseded(session)
        self.outbox_written.set()

    async def _refused(self, session: AgentSession, order: int | None, sha256: bytes) -> int:
        """The number that the same checkpoint got before; else raises why the write was refused."""
        if order is None:
            raise superseded(session)
        row = await self.database.fetchrow(
            SQL["refused_checkpoint"], *fence_arguments(session), order, sha256
        )
        if row is None or not row["open"]:
            raise superseded(session)
        if row["sequence"] is None:
            raise Overtaken(
                f"attempt {session.attempt} of {session.namespace}/{session.task_name} has saved a newer "
                f"checkpoint than that of order {order}"
            )
        sequence: int = row["sequence"]
        return sequence

    async def checkpoints(
        self, session: AgentSession, *, label: str | None = None, before: int | None = None, limit: int
    ) -> list[CheckpointInfo]:
        """The task's checkpoints, newest first; with `before` only those of lower numbers."""
        key = session.key
        found = await self.database.fetch(
            SQL["checkpoints"],
            session.workflow_uid,
            key.step,
            key.index,
            None if label is None else text(label),
            None if before is None else min(before, _LARGEST),
            limit,
        )
        return [rows.checkpoint_info(row) for row in found]

    async def open_latest(self, session: AgentSession, label: str | None = None) -> OpenCheckpoint | None:
        """The newest recoverable checkpoint of any attempt, with `label` the newest of that label.

        All bytes are read and compared with the checksum before this returns. Raises CorruptCheckpoint.
        """
        return await self._open(session, "latest_checkpoint", None if label is None else text(label))

    async def open_checkpoint(self, session: AgentSession, sequence: int) -> OpenCheckpoint | None:
        """One checkpoint; None if it does not exist or was pruned. Checked as by `open_latest`."""
        if not 1 <= sequence <= _LARGEST:
            return None
        return await self._open(session, "one_checkpoint", sequence)

    async def latest_checkpoint(self, session: AgentSession) -> Checkpoint | None:
        """The newest recoverable checkpoint, whole. Raises CorruptCheckpoint."""
        return await _whole(await self.open_latest(session))

    async def checkpoint(self, session: AgentSession, sequence: int) -> Checkpoint | None:
        """One checkpoint, whole; None if it does not exist or was pruned. Raises CorruptCheckpoint."""
        return await _whole(await self.open_checkpoint(session, sequence))

    async def _open(self, session: AgentSession, name: str, which: Any) -> OpenCheckpoint | None:
        key = session.key
        tried = None
        while True:
            row = await self.database.fetchrow_slow(
                SQL[name], session.workflow_uid, key.step, key.index, which, timeout=_READ_TIMEOUT
            )
            if row is None:
                return None
            try:
                return await self._opened(row)
            except CorruptCheckpoint:
                # The checkpoint may have been pruned, with its pieces, while it was read: try the next once.
                if tried == row["sequence"]:
                    raise
                tried = row["sequence"]

    async def _opened(self, row: Any) -> OpenCheckpoint:
        info = rows.checkpoint_info(row)
        if row["upload"] is not None:
            # All pieces are checked before the first byte is sent: a response that began cannot become an
            # error.
            async for _ in self._pieces(info, row["upload"]):
                pass
            return OpenCheckpoint(info=info, pieces=lambda: self._pieces(info, row["upload"]))
        stored = checkpoint_bytes.Stored(data=row["data"], encoding=row["encoding"], sha256=row["sha256"])
        try:
            data = await checkpoint_bytes.unpack(stored, size=row["size"])
        except CorruptCheckpoint as error:
            raise _corrupt(info, error) from error
        return OpenCheckpoint(info=info, pieces=lambda: _once(data))

    async def _pieces(self, info: CheckpointInfo, upload: uuid.UUID) -> AsyncIterator[bytes]:
        check = checkpoint_bytes.Check(size=info.size, sha256=bytes.fromhex(info.sha256))
        number = 0
        try:
            while check.left > 0:
                # One statement a piece, without a transaction: a slow reader would hold a connection.
                row = await self.database.fetchrow(SQL["read_piece"], upload, number)
                piece = b"" if row is None else checkpoint_bytes.unpack_piece(row["packed"], row["data"])
                check.take(piece)
                yield piece
                number += 1
        except CorruptCheckpoint as error:
            raise _corrupt(info, error) from error

    def _time_for(self, size: int) -> float:
        """Seconds for a statement that transfers so many bytes."""
        return self.database.timeout + size / _SLOWEST


def _compare(found: bytes, said: bytes | None) -> None:
    if said is not None and found != said:
        raise WrongChecksum(f"what arrived has the SHA-256 {found.hex()}, not {said.hex()}")


def _corrupt(info: CheckpointInfo, error: CorruptCheckpoint) -> CorruptCheckpoint:
    named = CorruptCheckpoint(f"checkpoint {info.sequence}: {error}")
    named.sequence = info.sequence
    return named


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _whole(found: OpenCheckpoint | None) -> Checkpoint | None:
    if found is None:
        return None
    info = found.info
    return Checkpoint(
        sequence=info.sequence,
        attempt=info.attempt,
        created_at=info.created_at,
        content_type=info.content_type,
        label=info.label,
        sha256=info.sha256,
        data=b"".join([piece async for piece in found.pieces()]),
        recoverable=info.recoverable,
    )
