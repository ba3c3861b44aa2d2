"""The agents' route family."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response
from starlette.routing import BaseRoute

from perdure.domain.records import Superseded
from perdure.gateway.agent_api.checkpoint_throttle import CheckpointThrottle
from perdure.gateway.agent_api.handlers import AgentApi
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.agent_api.pod_tokens import PodAuthenticator
from perdure.gateway.agent_api.ports import AgentLedger, Verifier
from perdure.gateway.agent_api.problems import ERRORS
from perdure.gateway.agent_api.progress_throttle import ProgressThrottle
from perdure.gateway.agent_api.sessions import Sessions
from perdure.gateway.http.budget import Budget
from perdure.gateway.http.endpoint import Call, Handler, Routes, Runtime
from perdure.gateway.http.problems import ErrorTable
from perdure.kube.tokens import AgentIdentity

#: Digits of the largest number in a path that is converted. Python's `int` raises for more than 4,300 digits.
_MOST_DIGITS: Final = 80


class _SequenceConvertor(Convertor[int]):
    """The sequence number of a checkpoint in a path.

    Starlette's own convertor raises for numbers that Python does not convert, and the request would end in a
    500 in place of a 404.
    """

    regex = "[0-9]+"

    def convert(self, value: str) -> int:
        # No checkpoint has the number 0.
        return int(value) if len(value) <= _MOST_DIGITS else 0

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("sequence", _SequenceConvertor())


class AgentRoutes:
    """A `RouteFamily`: see `gateway.app`."""

    prefix: Final = "/agent/v1"
    title: Final = "agents' routes"
    errors: Final[ErrorTable] = ERRORS

    def __init__(
        self,
        ledger: AgentLedger,
        verifier: Verifier,
        *,
        throttle: ProgressThrottle,
        checkpoints: CheckpointThrottle,
        limits: AgentLimits,
        clock: Callable[[], datetime],
    ) -> None:
        """The caller enters the throttles."""
        self._ledger = ledger
        self._authenticator = PodAuthenticator(verifier, clock=clock)
        self._throttle = throttle
        self._checkpoints = checkpoints
        self._limits = limits
        self._clock = clock

    def routes(self, runtime: Runtime) -> list[BaseRoute]:
        """See `RouteFamily`."""
        sessions = Sessions(self._ledger, cached=self._limits.sessions)
        api = AgentApi(
            ledger=self._ledger,
            sessions=sessions,
            throttle=self._throttle,
            checkpoints=self._checkpoints,
            uploads=Budget(
                self._limits.uploads,
                wait=runtime.limits.memory_wait,
                per_caller=1,
                # One is always left for others, who need not wait for the end of a slow upload.
                per_namespace=max(1, self._limits.uploads - 1),
            ),
            limits=self._limits,
            clock=self._clock,
        )
        family = Routes(self.prefix, self._authenticator, runtime)

        def route(path: str, **handlers: Handler[AgentIdentity]) -> BaseRoute:
            fenced = {method: _forgetting(handler, sessions) for method, handler in handlers.items()}
            return family.route(path, **fenced)

        return [
            route("/checkpoints", PUT=api.save_checkpoint, GET=api.list_checkpoints),
            route("/progress", POST=api.progress),
            route("/heartbeat", POST=api.heartbeat),
            route("/checkpoints/latest", GET=api.latest_checkpoint),
            route("/checkpoints/{sequence:sequence}", GET=api.one_checkpoint),
            route("/task", GET=api.task),
            route("/result", POST=api.result),
            route("/failure", POST=api.failure),
        ]


def _forgetting(handler: Handler[AgentIdentity], sessions: Sessions) -> Handler[AgentIdentity]:
    """The handler, which drops a superseded attempt from the cache."""

    async def handle(call: Call[AgentIdentity]) -> Response:
        try:
            return await handler(call)
        except Superseded:
            sessions.forget(call.identity)
            raise

    return handle
