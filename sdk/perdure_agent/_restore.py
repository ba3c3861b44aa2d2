"""Restore of a checkpoint, with fallback to the newest older one that is sound."""

from __future__ import annotations

import logging
from collections.abc import Callable

from perdure_agent._backend import Backend
from perdure_agent._checkpoints import Found, Which
from perdure_agent._payload import Sink
from perdure_agent.errors import DamagedCheckpoint

log = logging.getLogger("perdure_agent")


async def load(
    backend: Backend,
    which: Which,
    sink: Sink,
    *,
    fallback: bool,
    patience: Callable[[], float | None],
) -> tuple[Found | None, tuple[int, ...]]:
    """Bytes of a checkpoint into `sink`; returns the checkpoint and the numbers of newer, damaged ones.

    Raises DamagedCheckpoint for the first one if no checkpoint is sound, or if `fallback` is false.
    """
    try:
        return await backend.load(which, sink, patience=patience()), ()
    except DamagedCheckpoint as damaged:
        if not fallback:
            raise
        log.warning("%s; trying an older checkpoint", damaged)
        first = damaged
    newest = first.sequence
    skipped = [] if newest is None else [newest]
    for info in await backend.list(which.label, patience=patience()):
        if not info.recoverable or (newest is not None and info.sequence >= newest):
            continue
        try:
            found = await backend.load(Which(sequence=info.sequence), sink, patience=patience())
        except DamagedCheckpoint as damaged:
            log.warning("%s; trying an older checkpoint", damaged)
            skipped.append(info.sequence)
            continue
        if found is not None:
            log.warning("going on from checkpoint %s: newer ones are damaged", found.sequence)
            return found, tuple(skipped)
    raise first
