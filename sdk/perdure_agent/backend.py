"""What an agent needs from wherever its task's state lives, and what of it a user may tune."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from perdure_agent.checkpoints import CheckpointInfo, Found, Which
from perdure_agent.payload import Payload, Sink
from perdure_agent.transport import Retries


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may tune. The defaults suit agents that work for minutes to days."""

    retries: Retries = field(default_factory=Retries)
    #: Seconds between signs of life.
    heartbeat_interval: float = 10.0
    #: How long a result that is safe in the termination message waits for an absent gateway. Seconds.
    result_patience: float = 300.0
    #: After SIGTERM no call waits beyond so many seconds from it: less than the pod's grace period, 30 s.
    grace: float = 20.0


class Backend(Protocol):
    """Where a task's state lives: the gateway, or a folder on a laptop."""

    async def read_input(self) -> Any: ...

    async def save(
        self, payload: Payload, *, label: str | None, recoverable: bool, order: int, patience: float | None
    ) -> int: ...

    async def load(self, which: Which, sink: Sink, *, patience: float | None) -> Found | None: ...

    async def list(self, label: str | None, *, patience: float | None) -> list[CheckpointInfo]: ...

    async def progress(self, *, percent: float | None, message: str | None) -> None: ...

    async def heartbeat(self) -> None: ...

    async def result(self, output: bytes, *, patience: float | None) -> None: ...

    async def failure(self, message: str, *, retryable: bool, patience: float | None) -> None: ...
