"""The manifest side of agent steps: a container does the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from perdure.api.agent import Agent
from perdure.api.base import Model
from perdure.api.raw_spec import Found, Raw
from perdure.api.step import Step
from perdure.api.step_kind import StepSpec, joined
from perdure.api.validation.cross_field import check_agent, may_name_container
from perdure.domain.admission import agent_layers
from perdure.domain.admission.context import CheckedStep, StepContext
from perdure.domain.admission.expression_check import check_value
from perdure.domain.admission.step_kind import StepAdmission

_NAMES_CONTAINER = "has({0}.agent) && (has({0}.agent.image) || has({0}.agent.templateRef))"


class AgentSpec(StepAdmission):
    """An agent, whose block may come from `spec.defaults.agent` in part or as a whole."""

    field = "agent"
    noun = "an agent"
    block: ClassVar[type[Model]] = Agent
    description = "The container that does the work; what it leaves out comes from `spec.defaults.agent`."
    implied = True
    stand_in = {"image": "unknown"}

    def graph_rule(self, every: Callable[[str], str], others: Sequence[StepSpec]) -> tuple[str, str] | None:
        fields = [other.field for other in others]
        step = " || ".join([*(f"has(s.{field})" for field in fields), f"({_NAMES_CONTAINER.format('s')})"])
        message = (
            "every step needs agent.image or agent.templateRef, its own or one in spec.defaults.agent,"
            f" or else {joined(fields, 'or')}"
        )
        return f"(has(self.defaults) && {_NAMES_CONTAINER.format('self.defaults')}) || {every(step)}", message

    def check_block(self, block: Raw, found: Found) -> None:
        check_agent(block, found)

    def step_checker(self, graph: Raw, found: Found) -> Callable[[Raw], None]:
        defaults = graph.at("defaults")
        has_default = may_name_container(defaults.at("agent"), defaults, graph)

        def check(step: Raw) -> None:
            own = step.at("agent")
            if not has_default and not may_name_container(own, step):
                found(
                    own.named, "names no container: give image or templateRef, here or in spec.defaults.agent"
                )

        return check

    def check(self, step: Step, block: Agent | None, context: StepContext) -> CheckedStep:
        agent = agent_layers.resolve_agent(
            context.defaults.agent,
            block,
            context.admission.agent_template,
            path=f"{context.path}.agent",
            defaults_path=f"{context.defaults_path}.agent",
        )
        _check_image(agent, context)
        needed = check_value(step.input, f"{context.path}.input", context.scope, context.findings)
        needed |= agent_layers.check_agent(agent, context.scope, context.findings)
        return CheckedStep({"agent": agent.block, "input": {} if step.input is None else step.input}, needed)


def _check_image(agent: agent_layers.ResolvedAgent, context: StepContext) -> None:
    """Report an agent whose layers give no image, unless parsing has reported that or it is in doubt."""
    graph, at = context.graph, context.at
    if not agent.found or "image" in agent.block or graph.faulty(f"{context.path}.agent"):
        return
    if agent.template is None:
        # An unknown field in one of these objects may have been meant for the image.
        places: list[tuple[int | str, ...]] = [at, (*at, "agent"), ("defaults",), ("defaults", "agent")]
        if context.defaults.agent is None:
            places.append(())
        if any(graph.lost(*place) for place in places):
            return
    message = "an image is needed, here, in defaults.agent or in a template"
    context.findings.add(f"{context.path}.agent.image", message)
