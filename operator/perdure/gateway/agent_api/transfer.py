"""Responses with the bytes of one checkpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import Response

from perdure.gateway.agent_api.request_fields import label_header
from perdure.gateway.http.streaming import Transfer
from perdure.ledger.types import CheckpointInfo, OpenCheckpoint


def checkpoint_response(found: OpenCheckpoint) -> Response:
    """The checkpoint's bytes, read from the ledger as fast as the client reads the response."""
    return Transfer(found.pieces, size=found.info.size, headers=_headers(found.info))


def checkpoint_head(info: CheckpointInfo) -> Response:
    """The answer to HEAD, for which no byte of the checkpoint is read, and so none is checked."""

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    return Transfer(nothing, size=info.size, headers=_headers(info))


def _headers(info: CheckpointInfo) -> dict[str, str]:
    headers = {
        "Perdure-Sequence": str(info.sequence),
        "Perdure-Sha256": info.sha256,
        "Perdure-Attempt": str(info.attempt),
        "Perdure-Recoverable": "true" if info.recoverable else "false",
        "X-Content-Type-Options": "nosniff",
        "Content-Type": info.content_type,
    }
    if info.label is not None:
        headers["Perdure-Label"] = label_header(info.label)
    return headers
