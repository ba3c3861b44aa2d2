"""AgentTask: one unit of work, made by a run for each task of a step, or applied by a person alone."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict

from perdure.api.agent import Agent
from perdure.api.base import APPLIED_WHOLE, Json, Model, Timeout, is_free_form, rule_on_create, rules
from perdure.api.policies import Disruptions, Retention, Retry


class AgentTaskSpec(Model):
    """The block of a step that does the work. But for `desiredState` it cannot be changed afterwards."""

    model_config = ConfigDict(
        json_schema_extra=APPLIED_WHOLE
        | rules(
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
    #: How many attempts may be lost to disruptions.
    disruptions: Disruptions | None = None
    #: How long one attempt may run, from the start of its container.
    timeout: Timeout | None = None
    #: How long an attempt may wait for its container to start.
    pending_timeout: Timeout | None = None
    #: How long an attempt may give no sign of life: no heartbeat, progress or checkpoint.
    idle_timeout: Timeout | None = None
    #: Running; Paused: lets the agent save a checkpoint and holds no pod; or Cancelled: stops it for good.
    #: Of a run's tasks the run's `desiredState` decides. Default: Running.
    desired_state: Literal["Running", "Paused", "Cancelled"] = "Running"
    #: How long it and its history are kept after its end. Of a run's tasks the run's retention decides.
    retention: Retention = Retention()


#: Fields that cannot be changed, as far as rules see them.
FIXED: Final = tuple(
    name for name, it in AgentTaskSpec.fields().items() if name != "desiredState" and not is_free_form(it)
)
