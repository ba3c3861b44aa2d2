"""The stored form of a checkpoint's bytes: compressed where that saves space, checked when read.

Large checkpoints are received, stored and read in pieces. So a gateway needs little memory for many of them,
and its event loop answers other agents while it compresses one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Literal

import zstandard

from perdure.ledger.types import CorruptCheckpoint

#: Bytes up to which compression saves less than it costs.
COMPRESS_ABOVE: Final = 1024
#: Bytes up to which a checkpoint is stored whole; a larger one is stored in pieces.
WHOLE: Final = 1024 * 1024
#: Bytes of a stored piece, and between two yields to the event loop: about a millisecond of work.
PIECE: Final = 512 * 1024
#: The fastest level of zstd; higher ones save little on agents' checkpoints.
_LEVEL: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A checkpoint's bytes as the ledger stores them. `sha256` is of the original bytes."""

    data: bytes = field(repr=False)
    encoding: Literal["identity", "zstd"]
    sha256: bytes


async def pack(data: bytes) -> Stored:
    """The stored form of a checkpoint: compressed if that is shorter, with the checksum."""
    sha256 = await _sha256(data)
    if len(data) > COMPRESS_ABOVE:
        packed = await _compress(data)
        if len(packed) < len(data):
            return Stored(data=packed, encoding="zstd", sha256=sha256)
    return Stored(data=bytes(data), encoding="identity", sha256=sha256)


async def unpack(stored: Stored, *, size: int) -> bytes:
    """The original bytes, `size` of them. Raises CorruptCheckpoint if they are not those that were packed."""
    data = stored.data
    if stored.encoding == "zstd":
        try:
            data = await _decompress(stored.data, size)
        except zstandard.ZstdError as error:
            raise CorruptCheckpoint(f"stored bytes do not decompress: {error}") from error
    if len(data) != size:
        raise CorruptCheckpoint(f"{len(data)} bytes where {size} were written")
    if await _sha256(data) != stored.sha256:
        raise CorruptCheckpoint("stored bytes do not match their SHA-256")
    return data


class Pieces:
    """Cuts a large checkpoint into pieces. After iterating over `cut` the totals are those of the whole."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0
        self.stored_size = 0

    @property
    def sha256(self) -> bytes:
        return self._digest.digest()

    async def cut(self, source: AsyncIterable[bytes]) -> AsyncIterator[tuple[bool, bytes]]:
        """The source's bytes as stored: whether they are compressed, and the bytes. Holds one piece."""
        gathered = bytearray()
        async for piece in source:
            view = memoryview(piece)
            while len(view):
                room = PIECE - len(gathered)
                gathered += view[:room]
                view = view[room:]
                if len(gathered) == PIECE:
                    yield self._stored(bytes(gathered))
                    gathered.clear()
        if gathered:
            yield self._stored(bytes(gathered))

    def _stored(self, piece: bytes) -> tuple[bool, bytes]:
        self._digest.update(piece)
        self.size += len(piece)
        # Each piece is compressed by itself: a part of one compressed stream could expand to any size.
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(piece)
        shrunk = len(packed) < len(piece)
        stored = packed if shrunk else piece
        self.stored_size += len(stored)
        return shrunk, stored


def unpack_piece(packed: bool, data: bytes) -> bytes:
    """The original bytes of one stored piece. Raises CorruptCheckpoint if it does not decompress."""
    if not packed:
        return data
    try:
        if zstandard.frame_content_size(data) > PIECE:
            raise CorruptCheckpoint("a stored piece is larger than any that was written")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise CorruptCheckpoint(f"a stored piece does not decompress: {error}") from error


class Check:
    """A check of the pieces that are read against the checksum of what was written."""

    def __init__(self, *, size: int, sha256: bytes) -> None:
        self._left = size
        self._expected = sha256
        self._digest = hashlib.sha256()

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return self._left

    def take(self, piece: bytes) -> None:
        """The next piece. Raises CorruptCheckpoint, at the latest with the last one, if it is wrong."""
        self._digest.update(piece)
        self._left -= len(piece)
        if self._left < 0:
            raise CorruptCheckpoint("there are more bytes than were written")
        if not piece or (self._left == 0 and self._digest.digest() != self._expected):
            raise CorruptCheckpoint("stored bytes do not match their SHA-256")


async def _sha256(data: bytes) -> bytes:
    if len(data) <= PIECE:
        return hashlib.sha256(data).digest()
    digest = hashlib.sha256()
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        digest.update(view[start : start + PIECE])
        await asyncio.sleep(0)
    return digest.digest()


async def _compress(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    if len(data) <= PIECE:
        return compressor.compress(data)
    stream = compressor.compressobj(size=len(data))
    view = memoryview(data)
    pieces = []
    for start in range(0, len(data), PIECE):
        pieces.append(stream.compress(view[start : start + PIECE]))
        await asyncio.sleep(0)
    pieces.append(stream.flush())
    return b"".join(pieces)


async def _decompress(data: bytes, size: int) -> bytes:
    stream = zstandard.ZstdDecompressor().decompressobj()
    view = memoryview(data)
    pieces = []
    found = 0
    # Small pieces of input: well compressed bytes expand a lot.
    for start in range(0, len(data), PIECE // 8):
        piece = stream.decompress(view[start : start + PIECE // 8])
        found += len(piece)
        if found > size:
            raise CorruptCheckpoint(f"stored bytes decompress to more than the {size} that were written")
        pieces.append(piece)
        if len(data) > PIECE // 8:
            await asyncio.sleep(0)
    return b"".join(pieces)
