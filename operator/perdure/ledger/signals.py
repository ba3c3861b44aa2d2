"""The senders' part of a run's inbox: a signal is written."""

from __future__ import annotations

import uuid
from typing import Final

from perdure.domain.names import shard_of
from perdure.domain.phases import Phase
from perdure.domain.records import Signal
from perdure.ledger.base import Side
from perdure.ledger.parameters import dumps, text
from perdure.ledger.queries import SQL
from perdure.ledger.types import (
    SIGNAL_PAYLOAD,
    SIGNAL_TEXT,
    SIGNALS_UNREAD,
    SIGNALS_UNREAD_BYTES,
    InboxFull,
    RunEnded,
    SignalTooLarge,
    UnknownRun,
)

_LIVE: Final = frozenset({Phase.PENDING, Phase.RUNNING, Phase.PAUSED})


class SignalSide(Side):
    """Facts from outside a run. What a signal means is for the decision that consumes it."""

    async def send_signal(self, uid: str, signal: Signal) -> bool:
        """Put a signal into a run's inbox; returns once it is durable. False if the id was known.

        A known id is acknowledged and changes nothing, even if the run has ended since: the first answer may
        have been lost, and senders repeat what was not answered. The write raises the run's version, so a
        decision that has not seen the signal is refused. Raises UnknownRun, RunEnded, SignalTooLarge,
        InboxFull, each a SignalRefused.
        """
        payload = dumps(signal.payload)
        if len(payload) > SIGNAL_PAYLOAD:
            raise SignalTooLarge(
                f"the payload of signal {signal.id} has {len(payload)} bytes, at most {SIGNAL_PAYLOAD} are "
                "kept: store large data elsewhere and send a reference to it"
            )
        if not _is_uuid(uid):
            raise UnknownRun(f"{uid!r} is not the uid of a run")
        id, step, name, sender = map(text, (signal.id, signal.key.step, signal.name, signal.sender))
        for field, value in (("id", id), ("step", step), ("name", name), ("sender", sender)):
            if len(value.encode()) > SIGNAL_TEXT:
                raise SignalTooLarge(
                    f"the {field} of the signal has {len(value.encode())} bytes, at most {SIGNAL_TEXT} are"
                    " kept: give a shorter one"
                )
        row = await self.writer.submit(
            SQL["send_signal"],
            (
                uid,
                id,
                step,
                signal.key.index,
                name,
                payload,
                sender,
                signal.at,
                SIGNALS_UNREAD,
                SIGNALS_UNREAD_BYTES - len(payload),
            ),
            order=(shard_of(uid), uid),
            size=len(payload),
        )
        if row["sent"]:
            return True
        if row["phase"] is None:
            raise UnknownRun(f"the ledger has no run {uid}")
        known = await self.database.fetchrow(SQL["signal_is_known"], uid, id)
        if known["known"]:
            return False
        if row["phase"] in _LIVE:
            raise InboxFull(
                f"run {uid} has not consumed {SIGNALS_UNREAD} signals, or {SIGNALS_UNREAD_BYTES} bytes of"
                " them: send it again later"
            )
        raise RunEnded(f"run {uid} has ended: {row['phase']}")


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
