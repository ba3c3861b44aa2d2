"""The agent block: which container does the work.

It is the same in a step, in an AgentTask, in a run's defaults and, flat, in an AgentTemplate, so that a
person learns it once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from perdure.api.base import FreeObject, Model, ObjectName, Quantity, list_map
from perdure.api.policies import MAX_RETRIES, Retention, Retry

# MAX_RETRIES, Retention and Retry are defined in policies.py; importers of this module still use them.
__all__ = [
    "MAX_RETRIES",
    "Agent",
    "AgentContainer",
    "EnvSource",
    "EnvVar",
    "FieldSelector",
    "KeySelector",
    "ObjectLabels",
    "PodTemplate",
    "Resources",
    "Retention",
    "Retry",
]

MAX_LABELS = 64
#: Characters of one argument or variable as people write it. What an expression gives may be longer.
MAX_TEXT = 32768


class KeySelector(Model):
    """One key of a Secret or ConfigMap in the run's namespace."""

    #: Name of the Secret or ConfigMap.
    name: ObjectName
    #: The key in it.
    key: Annotated[str, Field(min_length=1, max_length=253)]
    #: Whether the agent starts without the variable if the object or the key is missing. Default: false.
    optional: bool | None = None


class FieldSelector(Model):
    """A field of the agent's pod, as the downward API names it."""

    #: Such as `metadata.name` or `status.podIP`.
    field_path: Annotated[str, Field(min_length=1, max_length=253)]


class EnvSource(Model):
    """Where an environment variable's value comes from, if it is not written out: exactly one source."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    #: A key of a Secret.
    secret_key_ref: KeySelector | None = None
    #: A key of a ConfigMap.
    config_map_key_ref: KeySelector | None = None
    #: A field of the agent's pod.
    field_ref: FieldSelector | None = None

    @model_validator(mode="after")
    def _one_source(self) -> EnvSource:
        if (
            sum(
                source is not None
                for source in (self.secret_key_ref, self.config_map_key_ref, self.field_ref)
            )
            != 1
        ):
            raise ValueError("must name exactly one of secretKeyRef, configMapKeyRef and fieldRef")
        return self


class EnvVar(Model):
    """One environment variable. `value` may hold `${}` expressions."""

    # The name and one more field. A CEL rule would give a better message, but would run for every variable
    # at every write.
    model_config = ConfigDict(json_schema_extra={"maxProperties": 2})

    #: Name of the variable.
    name: Annotated[str, Field(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$", max_length=253)]
    #: Its value; may hold `${}` expressions. Default: empty.
    value: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    #: Where the value comes from instead.
    value_from: EnvSource | None = None

    @model_validator(mode="after")
    def _one_value(self) -> EnvVar:
        if self.value is not None and self.value_from is not None:
            raise ValueError("takes value or valueFrom, not both")
        return self


class Resources(Model):
    """CPU, memory and other resources, as in a pod."""

    #: What the scheduler sets aside for the agent.
    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    #: What the agent may use at most.
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None


class ObjectLabels(Model):
    """Labels and annotations for an object that the operator makes."""

    #: Labels besides the operator's own.
    labels: (
        Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=MAX_LABELS)] | None
    ) = None
    #: Annotations besides the operator's own.
    annotations: (
        Annotated[dict[str, Annotated[str, Field(max_length=32768)]], Field(max_length=MAX_LABELS)] | None
    ) = None


class PodTemplate(Model):
    """The agent's pod without its container: merged, as a strategic patch, under what the operator sets."""

    #: Labels and annotations of the pod.
    metadata: ObjectLabels | None = None
    #: The fields of a pod's spec, such as `nodeSelector`, `tolerations`, `volumes` or further `containers`;
    #: the container `agent` is the agent's own.
    spec: FreeObject | None = None


class AgentContainer(Model):
    """The container an agent runs in: what an AgentTemplate says, and a step may override."""

    #: Container image.
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    #: Entry point instead of the image's; strings may hold `${}` expressions.
    command: Annotated[list[Annotated[str, Field(max_length=MAX_TEXT)]], Field(max_length=256)] | None = None
    #: Arguments of the entry point; strings may hold `${}` expressions.
    args: Annotated[list[Annotated[str, Field(max_length=MAX_TEXT)]], Field(max_length=256)] | None = None
    #: Environment variables, by unique name.
    env: Annotated[list[EnvVar], Field(max_length=256, json_schema_extra=list_map("name"))] | None = None
    #: CPU, memory and other resources, as in a pod.
    resources: Resources | None = None
    #: ServiceAccount that the agent's pod runs as. Default: default.
    service_account_name: ObjectName | None = None
    #: The model that the agent shall use: it finds the name in `PERDURE_MODEL`.
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    #: What is made for each attempt: a Pod, or a Job for clusters whose policies want Jobs. Default: Pod.
    executor: Literal["Pod", "Job"] | None = None
    #: Required makes it a failure (`NoResult`) that the container exits with 0 and leaves neither a result
    #: nor a termination message. Default: Optional.
    result: Literal["Optional", "Required"] | None = None
    #: The pod around the container.
    pod_template: PodTemplate | None = None


class Agent(AgentContainer):
    """An agent block: an AgentTemplate by name, fields of its own, or both (its own fields win)."""

    #: Name of an AgentTemplate in the same namespace. A run takes a copy of it when it starts.
    template_ref: ObjectName | None = None
