"""Agent steps: a container does the work."""

from __future__ import annotations

from perdure.steps.agent.spec import AgentSpec


class AgentKind(AgentSpec):
    """The step kind `agent`."""
