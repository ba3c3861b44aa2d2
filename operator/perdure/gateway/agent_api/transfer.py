"""Responses with the bytes of one checkpoint."""

from __future__ import annotations

from starlette.responses import Response

from perdure.gateway.agent_api.request_fields import label_header
from perdure.gateway.http.streaming import Transfer
from perdure.ledger.types import OpenCheckpoint


def checkpoint_response(found: OpenCheckpoint) -> Response:
    """The checkpoint's bytes, read from the ledger as fast as the client reads the response."""
    info = found.info
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
    return Transfer(found.pieces, size=info.size, headers=headers)
