"""Agent steps: a container does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.steps.agent.rules import AgentRules
from perdure.steps.agent.spec import AgentSpec

if TYPE_CHECKING:
    from perdure.control.runs.executor import Executor, ExecutorContext


class AgentKind(AgentSpec, AgentRules):
    """The step kind `agent`."""

    def executor(self, context: ExecutorContext) -> Executor:
        # Imported late: `perdure lint` needs no client of the API server.
        from perdure.steps.agent.executor import AgentExecutor

        return AgentExecutor(context)
