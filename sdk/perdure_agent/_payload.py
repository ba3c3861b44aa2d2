"""Bytes of a checkpoint, in a form that can be sent more than once.

A gateway may be lost in the middle of an upload, and the upload then begins again. A source that cannot be
read twice is written to a nameless file first. Reading a local file blocks the event loop for a moment per
piece, which costs less than handing each piece to a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from perdure_agent._checkpoints import BYTES, JSON, LIMIT, encode_json
from perdure_agent.errors import GatewayError

#: Size of one piece, which is read, hashed and sent at once. Bytes.
_PIECE = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Bytes to save: in memory, or in a file from `start` on."""

    size: int
    #: Hexadecimal.
    sha256: str
    content_type: str
    data: bytes | None = field(default=None, repr=False)
    file: BinaryIO | None = None
    start: int = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """All pieces. Each call begins at the start."""
        if self.data is not None:
            view = memoryview(self.data)
            for at in range(0, self.size, _PIECE):
                yield bytes(view[at : at + _PIECE])
            return
        assert self.file is not None
        self.file.seek(self.start)
        left = self.size
        # Size and checksum are sent first: bytes that were appended since must not follow.
        while left and (piece := self.file.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece


async def prepare(data: Any, stack: AsyncExitStack, *, content_type: str | None = None) -> Payload:
    """A payload from any data that `Agent.checkpoint` accepts. `stack` closes the files that are opened.

    Raises GatewayError (413 too-large) beyond the limit, OSError for a file that cannot be read; TypeError or
    ValueError for what JSON cannot hold.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return await in_memory(bytes(data), content_type or BYTES)
    if isinstance(data, os.PathLike):
        return await _in_file(_opened(Path(data), stack), content_type or BYTES)
    if hasattr(data, "read"):
        if not data.seekable():
            return await _spooled(_reading(data), stack, content_type or BYTES)
        return await _in_file(data, content_type or BYTES)
    if isinstance(data, AsyncIterable):
        return await _spooled(data, stack, content_type or BYTES)
    return await in_memory(encode_json(data, field="checkpoint"), content_type or JSON)


async def in_memory(data: bytes, content_type: str) -> Payload:
    """A payload in memory. Raises GatewayError (413 too-large) beyond the limit."""
    _check(len(data))
    digest = hashlib.sha256()
    view = memoryview(data)
    for at in range(0, len(data), _PIECE):
        if at:
            await asyncio.sleep(0)
        digest.update(view[at : at + _PIECE])
    return Payload(size=len(data), sha256=digest.hexdigest(), content_type=content_type, data=data)


async def loaded(payload: Payload) -> Payload:
    """A copy in memory, which later changes of the file do not reach."""
    if payload.data is not None:
        return payload
    return await in_memory(b"".join([piece async for piece in payload.pieces()]), payload.content_type)


async def _in_file(file: BinaryIO, content_type: str) -> Payload:
    start = file.tell()
    digest = hashlib.sha256()
    size = 0
    while piece := file.read(_PIECE):
        if not isinstance(piece, bytes):
            raise TypeError("checkpoint: the file is open as text; open it with mode 'rb'")
        digest.update(piece)
        size += len(piece)
        _check(size)
        await asyncio.sleep(0)
    return Payload(size=size, sha256=digest.hexdigest(), content_type=content_type, file=file, start=start)


async def _spooled(source: AsyncIterable[bytes], stack: AsyncExitStack, content_type: str) -> Payload:
    file = _nameless(stack)
    size = 0
    async for piece in source:
        size += len(piece)
        _check(size)
        file.write(piece)
    file.seek(0)
    return await _in_file(file, content_type)


def _opened(path: Path, stack: AsyncExitStack) -> BinaryIO:
    return stack.enter_context(path.open("rb"))


def _nameless(stack: AsyncExitStack) -> BinaryIO:
    return stack.enter_context(tempfile.TemporaryFile(prefix="perdure-"))


async def _reading(file: Any) -> AsyncIterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
        await asyncio.sleep(0)


def _check(size: int) -> None:
    # The same refusal as the gateway's, but without an upload, or an hour's wait for an absent gateway.
    if size > LIMIT:
        raise GatewayError(
            413,
            kind="too-large",
            title="Too large",
            detail=f"checkpoint: at most {LIMIT} bytes; save less, or keep what is large elsewhere and save "
            "a reference to it",
        )


class Sink(Protocol):
    """Destination of a restored checkpoint's bytes."""

    def begin(self) -> None:
        """Discard all bytes: they arrive again from the start."""

    def write(self, piece: bytes) -> Any: ...

    def sha256(self) -> str: ...


class MemorySink:
    """Bytes in memory."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._content = io.BytesIO()
        self._digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._content.write(piece)

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def data(self) -> bytes:
        return self._content.getvalue()


class FileSink:
    """A temporary file next to `path`, which `keep` moves to `path` in one step. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()

    def __enter__(self) -> FileSink:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}-")
        self._fresh = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._fresh.unlink(missing_ok=True)

    def begin(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._file.write(piece)

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def keep(self) -> None:
        """Move the file to `path`."""
        self._file.close()
        self._fresh.replace(self._path)
