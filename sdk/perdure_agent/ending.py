"""What `run` must know about the agents inside it to choose the exit code.

A container's exit code is read together with its termination message: an agent that was told to stop just
after it had left its result must not say "run me again".
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Ending:
    """How the process is going to end, as far as is known."""

    #: SIGTERM has arrived: whatever goes wrong from now on is the interruption's doing.
    interrupted: bool = False
    #: What the agent said about its end, and what is known to survive this process.
    settled: Literal["succeeded", "failed"] | None = None


#: The ending that the surrounding `run` looks at; agents used without `run` have one of their own.
current: ContextVar[Ending | None] = ContextVar("perdure_agent_ending", default=None)
