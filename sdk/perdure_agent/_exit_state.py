"""State that decides the process's exit code, shared by `run` and the agents inside its main coroutine.

Kubernetes keeps a container's exit code together with its termination message, and the operator reads both.
An agent that receives SIGTERM just after its result was left there must not exit with "run me again".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from perdure_agent._clock import Clock, SystemClock


@dataclass(slots=True)
class ExitState:
    """Facts about the end of this process, as far as they are known."""

    clock: Clock = field(default_factory=SystemClock)
    #: SIGTERM has arrived: every later error counts as a consequence of the interruption.
    interrupted: bool = False
    #: Time of the SIGTERM on `clock`, in seconds.
    interrupted_at: float = 0.0
    #: The end that the agent reported and that survives this process.
    settled: Literal["succeeded", "failed"] | None = None
    #: A result exists that reached neither the gateway nor the termination message: another attempt must
    #: report it.
    unsent: bool = False
    #: Set once another attempt has taken over: writes of this process no longer count.
    superseded: asyncio.Event = field(default_factory=asyncio.Event)

    #: Cancels the main coroutine, while there is one.
    cancel_main: Callable[[], object] | None = None

    def interrupt(self) -> None:
        """SIGTERM: cancel the main coroutine, once."""
        # A second cancellation would break into the saving of the last checkpoint.
        if self.interrupted:
            return
        self.interrupted = True
        self.interrupted_at = self.clock.time()
        if self.cancel_main is not None:
            self.cancel_main()

    def patience(self, wanted: float | None, *, grace: float) -> float | None:
        """Seconds that a call may wait: `wanted`, cut to the rest of `grace` once SIGTERM has arrived."""
        if not self.interrupted:
            return wanted
        left = max(0.0, self.interrupted_at + grace - self.clock.time())
        return left if wanted is None else min(wanted, left)


#: Exit state of the surrounding `run`. An agent outside of `run` has an exit state of its own.
current: ContextVar[ExitState | None] = ContextVar("perdure_agent_exit_state", default=None)
