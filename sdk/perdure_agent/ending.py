"""What `run` must know about the agents inside it to choose the exit code.

A container's exit code is read together with its termination message: an agent that was told to stop just
after it had left its result must not say "run me again".
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Ending:
    """How the process is going to end, as far as is known."""

    #: SIGTERM has arrived: whatever goes wrong from now on is the interruption's doing.
    interrupted: bool = False
    #: When, on the event loop's clock.
    interrupted_at: float = 0.0
    #: What the agent said about its end, and what is known to survive this process.
    settled: Literal["succeeded", "failed"] | None = None
    #: There is a result that reached nobody: only another attempt can bring it.
    unsent: bool = False
    #: Another attempt has taken over: nothing that this process does counts any more.
    superseded: asyncio.Event = field(default_factory=asyncio.Event)

    def interrupt(self) -> None:
        """SIGTERM has arrived."""
        self.interrupted = True
        self.interrupted_at = asyncio.get_running_loop().time()

    def patience(self, wanted: float | None, *, grace: float) -> float | None:
        """How long a call may wait: after an interruption not beyond what is left of `grace` seconds."""
        if not self.interrupted:
            return wanted
        left = max(0.0, self.interrupted_at + grace - asyncio.get_running_loop().time())
        return left if wanted is None else min(wanted, left)


#: The ending that the surrounding `run` looks at; agents used without `run` have one of their own.
current: ContextVar[Ending | None] = ContextVar("perdure_agent_ending", default=None)
