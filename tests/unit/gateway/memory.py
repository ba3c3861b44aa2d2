"""In-memory ledger and verifier, which fail on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from perdure.domain.records import Report, Superseded, TaskKey
from perdure.kube.tokens import AgentIdentity, ExpiredToken, InvalidToken
from perdure.ledger.types import (
    AgentSession,
    Checkpoint,
    CheckpointInfo,
    CorruptCheckpoint,
    OpenCheckpoint,
    Overtaken,
    WrongChecksum,
)

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
    """The facts of one task. While `error` is set every call raises it."""

    sessions: dict[str, AgentSession] = field(default_factory=lambda: {"pod-1": session()})
    kept: list[Checkpoint] = field(default_factory=list)
    progressed: list[tuple[float | None, str | None]] = field(default_factory=list)
    #: Sequences of the checkpoints that have an event.
    announced: list[int] = field(default_factory=list)
    heartbeats: int = 0
    reports: list[Report] = field(default_factory=list)
    #: Attempts that have reported.
    reported: set[int] = field(default_factory=set)
    error: Exception | None = None
    #: Sequences whose bytes are damaged, and sequences whose damage is found during the transfer.
    damaged: set[int] = field(default_factory=set)
    damaged_late: set[int] = field(default_factory=set)
    #: Highest order of each attempt's checkpoints, and the order of each kept checkpoint.
    orders: dict[int, int] = field(default_factory=dict)
    order_of: dict[int, int] = field(default_factory=dict)
    #: Highest sequence so far; retention may have dropped it.
    sequence: int = 0
    lookups: int = 0
    #: Writes wait for this event.
    gate: asyncio.Event | None = None
    #: Checkpoints that have reached the gate.
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
        newest = next((kept for kept in reversed(self.kept) if kept.recoverable), None)
        if newest is None:
            return found
        return replace(
            found,
            checkpoint_sequence=newest.sequence,
            checkpoint_label=newest.label,
            checkpoint_at=newest.created_at,
        )

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
    ) -> int:
        self.entered += 1
        await self._notify()
        if self.gate is not None:
            await self.gate.wait()
        if not isinstance(data, bytes):
            data = b"".join([piece async for piece in data])
        if sha256 is not None and hashlib.sha256(data).digest() != sha256:
            raise WrongChecksum("what arrived is something else")
        self._fence(session)
        digest = hashlib.sha256(data).hexdigest()
        if order is not None:
            if order <= self.orders.get(session.attempt, 0):
                for kept in self.kept:
                    same = (kept.attempt, self.order_of.get(kept.sequence), kept.sha256)
                    if same == (session.attempt, order, digest):
                        return kept.sequence
                raise Overtaken("newer")
            self.orders[session.attempt] = order
            self.order_of[self.sequence + 1] = order
        self.sequence += 1
        self.kept.append(
            Checkpoint(
                sequence=self.sequence,
                attempt=session.attempt,
                created_at=now,
                content_type=content_type,
                label=label,
                sha256=digest,
                data=data,
                recoverable=recoverable,
            )
        )
        if announced:
            self.announced.append(self.sequence)
        newest = max((kept.sequence for kept in self.kept if kept.recoverable), default=0)
        oldest = self.sequence - session.checkpoints_per_task
        self.kept = [kept for kept in self.kept if kept.sequence > oldest or kept.sequence == newest]
        return self.sequence

    async def announce_checkpoint(self, session: AgentSession, now: datetime) -> None:
        self._fence(session)
        self.announced.append(self.sequence)
        await self._notify()

    async def checkpoints(
        self, session: AgentSession, *, label: str | None = None, before: int | None = None, limit: int
    ) -> list[CheckpointInfo]:
        self._check()
        return [
            _info(kept)
            for kept in reversed(self.kept)
            if label in (None, kept.label) and (before is None or kept.sequence < before)
        ][:limit]

    async def open_latest(self, session: AgentSession, label: str | None = None) -> OpenCheckpoint | None:
        self._check()
        for kept in reversed(self.kept):
            if kept.recoverable and label in (None, kept.label):
                return self._open(kept)
        return None

    async def open_checkpoint(self, session: AgentSession, sequence: int) -> OpenCheckpoint | None:
        self._check()
        return next((self._open(kept) for kept in self.kept if kept.sequence == sequence), None)

    def _open(self, kept: Checkpoint) -> OpenCheckpoint:
        if kept.sequence in self.damaged:
            error = CorruptCheckpoint(f"checkpoint {kept.sequence}")
            error.sequence = kept.sequence
            raise error

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(kept.data), 100):
                if start and kept.sequence in self.damaged_late:
                    raise CorruptCheckpoint(f"checkpoint {kept.sequence}")
                yield kept.data[start : start + 100]

        return OpenCheckpoint(info=_info(kept), pieces=pieces)

    async def progress(
        self, session: AgentSession, percent: float | None, message: str | None, now: datetime
    ) -> None:
        self._fence(session)
        self.progressed.append((percent, message))
        await self._notify()

    async def heartbeat(self, session: AgentSession, now: datetime) -> None:
        self._fence(session)
        self.heartbeats += 1

    async def report(self, session: AgentSession, report: Report) -> None:
        self._check()
        # The first report counts, and a later one is acknowledged even when the attempt is closed.
        if session.attempt not in self.reported:
            self._fence(session)
            self.reported.add(session.attempt)
            self.reports.append(report)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for `condition`, which a write makes true."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    def close(self, pod_uid: str = "pod-1") -> None:
        """Close the attempt, as the operator does."""
        self.sessions[pod_uid] = replace(self.sessions[pod_uid], open=False)

    async def _notify(self) -> None:
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


def _info(kept: Checkpoint) -> CheckpointInfo:
    return CheckpointInfo(
        sequence=kept.sequence,
        attempt=kept.attempt,
        created_at=kept.created_at,
        content_type=kept.content_type,
        label=kept.label,
        size=len(kept.data),
        sha256=kept.sha256,
        recoverable=kept.recoverable,
    )


@dataclass
class MemoryVerifier:
    """Verifier for which the token `good-<pod>` is bound to the pod `<pod>`; `expired-<pod>` once was."""

    error: Exception | None = None

    async def verify(self, token: str, *, now: datetime) -> AgentIdentity:
        assert now.tzinfo is UTC
        if self.error is not None:
            raise self.error
        word, _, pod_uid = token.partition("-")
        if word == "expired":
            raise ExpiredToken("the token has expired")
        if word != "good":
            raise InvalidToken("the token's signature is wrong")
        # A namespace may follow the pod.
        pod_uid, _, namespace = pod_uid.partition("@")
        return AgentIdentity(namespace or NAMESPACE, f"{pod_uid}-name", pod_uid, "default")

    async def warm(self, *, now: datetime) -> None:
        if self.error is not None:
            raise self.error
