"""The snapshot of a run: what admission hands to the engine, and what the ledger keeps of a run's spec.

Snapshots outlive the version that wrote them. A field that an earlier version did not write has its default
here, and an unknown field of a later version is kept and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from perdure.api.graph import RunSettings
from perdure.api.policies import DEFAULT_DISRUPTIONS, Backoff


class _Part(BaseModel):
    """Base of the parts: camelCase in JSON, frozen, unknown fields allowed."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="allow", frozen=True
    )


_BACKOFF = Backoff()


class BackoffSnapshot(_Part):
    """The delay before a retry. Durations as in manifests."""

    initial: str = _BACKOFF.initial
    factor: float = _BACKOFF.factor
    max: str = _BACKOFF.max
    jitter: float = _BACKOFF.jitter


class RetrySnapshot(_Part):
    """When a failed attempt is followed by another."""

    limit: int = 0
    backoff: BackoffSnapshot = BackoffSnapshot()
    on: str | None = None


class DisruptionsSnapshot(_Part):
    """How many attempts may be lost to disruptions."""

    limit: int = DEFAULT_DISRUPTIONS


class RepeatSnapshot(_Part):
    """When a loop ends."""

    until: str
    max_iterations: int


class CacheSnapshot(_Part):
    """Under which key a result is shared, and for how long."""

    key: str
    ttl: str = "168h"


class RetentionSnapshot(_Part):
    """How long the run and its history are kept."""

    ttl_after_finished: str
    checkpoints_per_task: int = 10
    pods: Literal["Always", "OnFailure", "Never"] = "Always"


class StepSnapshot(_Part):
    """One step, with all templates and defaults filled in. The block of its kind is an extra field."""

    name: str
    #: Steps of the same list that must have ended before.
    depends_on: list[str]
    #: All steps that its expressions see; None if these are the same.
    sees: list[str] | None = None
    continue_on_failure: bool = False
    when: Any = None
    for_each: Any = None
    repeat: RepeatSnapshot | None = None
    parallelism: int | None = None
    max_failures: int | str | None = None
    input: Any = Field(default_factory=dict)
    retry: RetrySnapshot | None = None
    disruptions: DisruptionsSnapshot | None = None
    timeout: str | None = None
    pending_timeout: str | None = None
    idle_timeout: str | None = None
    cache: CacheSnapshot | None = None

    @property
    def blocks(self) -> Mapping[str, Any]:
        """The extra fields: the block under the field of the step's kind, and those of later versions."""
        return self.model_extra or {}

    @property
    def is_for_each(self) -> bool:
        """True if the step runs once for each item, even if `forEach` is null."""
        return "for_each" in self.model_fields_set


class RunSnapshot(RunSettings, _Part):
    """The spec of a run as its engine needs it. No later edit of a template or a manifest changes it."""

    inputs: dict[str, Any]
    retention: RetentionSnapshot
    steps: list[StepSnapshot]
    finally_: list[StepSnapshot] = Field(default=[], alias="finally")
    outputs: dict[str, Any]
