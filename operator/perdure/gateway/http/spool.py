"""A body that waits on disk until it is whole.

Postgres gets a large body only once its last byte has come: a transaction that waits for a client would hold
a connection and the lock of its rows for as long as the client likes.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import IO, Final, Self

#: Bytes that are read at once, which is about the size of a piece in the ledger.
_PIECE: Final = 256 * 1024


class Spool:
    """Bytes in a file without a name, which the kernel removes with the process. A context manager."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def fill(self, source: AsyncIterable[bytes]) -> None:
        """Take all bytes of `source`. Raises OSError if the disk is full, and what the source raises."""
        # Unbuffered: pieces are large. Writes go to the page cache, and no callback waits for the disk.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `release`
        async for piece in source:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, from the first on."""
        assert self._file is not None
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
            await asyncio.sleep(0)

    def release(self) -> None:
        """Give the disk back. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
