"""Checkpoint bytes on their way in and out: compressed where it pays, and never believed unchecked.

Large ones are worked on in pieces, so that a gateway with one big checkpoint still answers everybody else.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

import zstandard

from perdure.ledger.types import CorruptCheckpoint

#: Smaller ones gain nothing worth the work.
COMPRESS_ABOVE: Final = 1024
#: Bytes between two chances for others to run: about a millisecond of work.
_PIECE: Final = 512 * 1024
#: Fast; higher levels gain little on what agents keep.
_LEVEL: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A checkpoint's bytes as they lie in the ledger. `sha256` is of the original bytes."""

    data: bytes = field(repr=False)
    encoding: Literal["identity", "zstd"]
    sha256: bytes


async def pack(data: bytes) -> Stored:
    """Compress if it shrinks, and take the checksum."""
    sha256 = await _sha256(data)
    if len(data) > COMPRESS_ABOVE:
        packed = await _compress(data)
        if len(packed) < len(data):
            return Stored(data=packed, encoding="zstd", sha256=sha256)
    return Stored(data=bytes(data), encoding="identity", sha256=sha256)


async def unpack(stored: Stored, *, size: int) -> bytes:
    """The original bytes. `size`: their number. Raises CorruptCheckpoint if they are not what was packed."""
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


async def _sha256(data: bytes) -> bytes:
    if len(data) <= _PIECE:
        return hashlib.sha256(data).digest()
    digest = hashlib.sha256()
    view = memoryview(data)
    for start in range(0, len(data), _PIECE):
        digest.update(view[start : start + _PIECE])
        await asyncio.sleep(0)
    return digest.digest()


async def _compress(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    if len(data) <= _PIECE:
        return compressor.compress(data)
    stream = compressor.compressobj(size=len(data))
    view = memoryview(data)
    pieces = []
    for start in range(0, len(data), _PIECE):
        pieces.append(stream.compress(view[start : start + _PIECE]))
        await asyncio.sleep(0)
    pieces.append(stream.flush())
    return b"".join(pieces)


async def _decompress(data: bytes, size: int) -> bytes:
    stream = zstandard.ZstdDecompressor().decompressobj()
    view = memoryview(data)
    pieces = []
    found = 0
    # Small pieces of input: what is well compressed grows a lot.
    for start in range(0, len(data), _PIECE // 8):
        piece = stream.decompress(view[start : start + _PIECE // 8])
        found += len(piece)
        if found > size:
            raise CorruptCheckpoint(f"stored bytes decompress to more than the {size} that were written")
        pieces.append(piece)
        if len(data) > _PIECE // 8:
            await asyncio.sleep(0)
    return b"".join(pieces)
