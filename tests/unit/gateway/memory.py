"""An in-memory ledger and verifier, which fail on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from perdure.domain.records import Report, Superseded, TaskKey
from perdure.kube.tokens import AgentIdentity, InvalidToken
from perdure.ledger.types import AgentSession, Checkpoint

NAMESPACE = "team-a"


def session(pod_uid: str = "pod-1", **changes: Any) -> AgentSession:
    """An open first attempt at an item of a `forEach` step."""
    return replace(
        AgentSession(
            workflow_uid="0b7c5c2e-6f0e-4b0f-9a51-1c4e1f1d8a11",
            kind="Workflow",
            namespace=NAMESPACE,
            run_name="audit",
            shard=7,
            key=TaskKey("analyse", 0),
            task_name="audit-analyse-0-abcde",
            attempt=1,
            pod_name=f"{pod_uid}-name",
            open=True,
            input={"path": "a.py"},
        ),
        **changes,
    )


@dataclass
class MemoryLedger:
    """One task's facts. `error` is raised by every call while it is set."""

    sessions: dict[str, AgentSession] = field(default_factory=lambda: {"pod-1": session()})
    checkpoints: list[Checkpoint] = field(default_factory=list)
    progressed: list[tuple[float | None, str | None]] = field(default_factory=list)
    heartbeats: int = 0
    reports: list[Report] = field(default_factory=list)
    error: Exception | None = None
    lookups: int = 0
    #: Writes wait for it.
    gate: asyncio.Event | None = None
    #: Checkpoints that have come as far as the gate.
    entered: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def ready(self) -> None:
        self._check()

    async def attempt_for_pod(self, namespace: str, pod_uid: str) -> AgentSession | None:
        self._check()
        self.lookups += 1
        found = self.sessions.get(pod_uid)
        if found is None or found.namespace != namespace:
            return None
        return replace(found, checkpoint_sequence=len(self.checkpoints) or None)

    async def write_checkpoint(
        self,
        session: AgentSession,
        data: bytes,
        *,
        content_type: str,
        label: str | None = None,
        now: datetime,
    ) -> int:
        self.entered += 1
        await self._tell()
        if self.gate is not None:
            await self.gate.wait()
        self._fence(session)
        self.checkpoints.append(
            Checkpoint(
                sequence=len(self.checkpoints) + 1,
                attempt=session.attempt,
                created_at=now,
                content_type=content_type,
                label=label,
                sha256=hashlib.sha256(data).hexdigest(),
                data=data,
            )
        )
        return len(self.checkpoints)

    async def latest_checkpoint(self, session: AgentSession) -> Checkpoint | None:
        self._check()
        return self.checkpoints[-1] if self.checkpoints else None

    async def checkpoint(self, session: AgentSession, sequence: int) -> Checkpoint | None:
        self._check()
        return self.checkpoints[sequence - 1]

    async def progress(
        self, session: AgentSession, percent: float | None, message: str | None, now: datetime
    ) -> None:
        self._fence(session)
        self.progressed.append((percent, message))
        await self._tell()

    async def heartbeat(self, session: AgentSession, now: datetime) -> None:
        self._fence(session)
        self.heartbeats += 1

    async def report(self, session: AgentSession, report: Report) -> None:
        self._fence(session)
        self.reports.append(report)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for `condition`, which some write will make true."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    def close(self, pod_uid: str = "pod-1") -> None:
        """The operator's part: this attempt is over."""
        self.sessions[pod_uid] = replace(self.sessions[pod_uid], open=False)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _fence(self, session: AgentSession) -> None:
        self._check()
        current = [known for known in self.sessions.values() if known.attempt == session.attempt]
        if not current or not current[0].open:
            raise Superseded("over")


@dataclass
class MemoryVerifier:
    """Token `good-<pod>` is pod `<pod>`'s."""

    error: Exception | None = None

    async def verify(self, token: str, *, now: datetime) -> AgentIdentity:
        assert now.tzinfo is UTC
        if self.error is not None:
            raise self.error
        word, _, pod_uid = token.partition("-")
        if word != "good":
            raise InvalidToken("the token's signature is wrong")
        return AgentIdentity(NAMESPACE, f"{pod_uid}-name", pod_uid, "default")

    async def warm(self, *, now: datetime) -> None:
        if self.error is not None:
            raise self.error
