"""Ports of the agents' routes: the agents' side of the ledger, and the verifier of their tokens.

The product's are `perdure.ledger.Ledger` and `perdure.kube.tokens.TokenVerifier`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from datetime import datetime
from typing import Protocol

from perdure.domain.records import Report
from perdure.kube.tokens import AgentIdentity
from perdure.ledger.types import AgentSession, CheckpointInfo, OpenCheckpoint


class AgentLedger(Protocol):
    """The agents' side of `perdure.ledger.Ledger`. All methods may raise LedgerUnavailable."""

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
        announced: bool = True,
        now: datetime,
    ) -> int: ...

    async def announce_checkpoint(self, session: AgentSession, now: datetime) -> None: ...

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
    """The check of bearer tokens: see `perdure.kube.tokens.TokenVerifier`."""

    async def verify(self, token: str, *, now: datetime) -> AgentIdentity:
        """The pod that the token is bound to. Raises InvalidToken, KeysUnavailable."""
        ...

    async def warm(self, *, now: datetime) -> None:
        """Fetch the keys that a verification needs, unless they are cached. Raises KeysUnavailable."""
        ...
