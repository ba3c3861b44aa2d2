"""AgentTask: one unit of work, made by a run for each task of a step, or applied by a person alone."""

from __future__ import annotations

from pydantic import ConfigDict

from perdure.api.agent import Agent, Retention, Retry
from perdure.api.base import APPLIED_WHOLE, Json, Model, rule, rule_on_create, rules


class AgentTaskSpec(Model):
    """The block of a step that does the work. It cannot be changed once it is applied."""

    model_config = ConfigDict(
        json_schema_extra=APPLIED_WHOLE
        | rules(
            rule(
                "self == oldSelf",
                "cannot be changed once it is applied: apply it under a new name, or delete this AgentTask"
                " and apply it again",
            ),
            rule_on_create(
                "has(self.agent.image) || has(self.agent.templateRef)",
                "needs image or templateRef",
                path=".agent",
            ),
        )
    )

    #: The container that does the work.
    agent: Agent
    #: What the agent finds in its input file: any JSON. Default: {}.
    input: Json = None
    #: How often it is tried again after a failure.
    retry: Retry | None = None
    #: How long it and its history are kept after its end. Of a run's tasks the run's retention decides.
    retention: Retention = Retention()
