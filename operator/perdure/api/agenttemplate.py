"""AgentTemplate: a named agent that steps refer to. A run takes a copy when it starts."""

from __future__ import annotations

from perdure.api.agent import AgentContainer


class AgentTemplateSpec(AgentContainer):
    """The agent block, flat. It may be edited: runs that have started keep the copy they took."""
