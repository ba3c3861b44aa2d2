"""Clock, network and environment of an agent, so that `perdure_agent.testing` can replace all three."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass

from perdure_agent import _heartbeat_thread
from perdure_agent._backstop import OpenBackstop
from perdure_agent._clock import Clock, SystemClock
from perdure_agent._environment import Environment
from perdure_agent._http import HttpClient, open_client


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Surroundings of one attempt."""

    clock: Clock
    open_client: Callable[[Environment], AbstractAsyncContextManager[HttpClient]]
    open_backstop: OpenBackstop
    #: Replaces the process's environment variables; None to read them.
    environment: Environment | None = None


SYSTEM = Runtime(clock=SystemClock(), open_client=open_client, open_backstop=_heartbeat_thread.running)

#: Runtime of `connect` in this context.
current: ContextVar[Runtime] = ContextVar("perdure_agent_runtime", default=SYSTEM)
