"""Port to the place where a task's state is kept."""

from __future__ import annotations

from typing import Any, Protocol

from perdure_agent._checkpoints import CheckpointInfo, Found, Which
from perdure_agent._payload import Payload, Sink


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
