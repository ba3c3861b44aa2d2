"""What the gateway needs from the world: a ledger, and somebody who can tell whose a token is.

The real ones are `perdure.ledger.Ledger` and `perdure.kube.tokens.TokenVerifier`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from datetime import datetime
from typing import Protocol

from perdure.domain.records import Report
from perdure.kube.tokens import AgentIdentity
from perdure.ledger.types import AgentSession, CheckpointInfo, OpenCheckpoint


class AgentLedger(Protocol):
    """The agents' side of the ledger: see `perdure.ledger.Ledger`. All may raise LedgerUnavailable."""

    async def ready(self) -> None: ...

    async def attempt_for_pod(self, namespace: str, pod_uid: str) -> AgentSession | None: ...

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
        now: datetime,
    ) -> int: ...

    async def checkpoints(
        self, session: AgentSession, *, label: str | None = None, before: int | None = None, limit: int
    ) -> list[CheckpointInfo]: ...

    async def open_latest(self, session: AgentSession, label: str | None = None) -> OpenCheckpoint | None: ...

    async def open_checkpoint(self, session: AgentSession, sequence: int) -> OpenCheckpoint | None: ...

    async def progress(
        self, session: AgentSession, percent: float | None, message: str | None, now: datetime
    ) -> None: ...

    async def heartbeat(self, session: AgentSession, now: datetime) -> None: ...

    async def report(self, session: AgentSession, report: Report) -> None: ...


class Verifier(Protocol):
    """Tells whose a token is: see `perdure.kube.tokens.TokenVerifier`."""

    async def verify(self, token: str, *, now: datetime) -> AgentIdentity:
        """Raises InvalidToken, KeysUnavailable."""
        ...

    async def warm(self, *, now: datetime) -> None:
        """Returns if tokens can be verified. Raises KeysUnavailable."""
        ...
