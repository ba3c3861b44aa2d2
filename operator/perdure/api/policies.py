"""The policies of a run: retries, disruptions and retention."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from perdure.api.base import Duration, Expression, Model, parse_duration

MAX_RETRIES: Final = 1000
DEFAULT_DISRUPTIONS: Final = 10


class Backoff(Model):
    """The delay before a retry: it grows by a factor each time, and varies so that many do not coincide."""

    #: Delay before the first retry. Default: 1s.
    initial: Duration = "1s"
    #: What each delay is multiplied by to give the next. Default: 2.
    factor: Annotated[float, Field(ge=1, le=100)] = 2
    #: The longest delay. Default: the longer of 1m and `initial`.
    max: Duration = "1m"
    #: The share of a delay by which it is varied at random, from 0 to 1. Default: 0.1.
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _initial_within_max(self) -> Backoff:
        if "max" in self.model_fields_set and parse_duration(self.initial) > parse_duration(self.max):
            raise ValueError(f"initial ({self.initial}) is longer than max ({self.max}): raise max")
        return self


class Retry(Model):
    """How often a failed task is tried again. Disruptions are counted apart and spend none of it."""

    #: Retries after the first attempt: 2 allows three attempts. Default: 0.
    limit: Annotated[int, Field(ge=0, le=MAX_RETRIES)] = 0
    #: The delay before each retry.
    backoff: Backoff = Backoff()
    #: One `${}` expression over `attempt`, the attempt that failed ({number, exitCode, reason, message,
    #: disruptions}); the task is tried again only if it gives true. Default: always.
    on: Expression | None = None
    #: The same as `on`: kubectl and other readers of YAML take a bare `on` for the word true.
    true: Expression | None = None

    @property
    def condition(self) -> str | None:
        """What `on` says, whichever way it was read."""
        return self.on if self.on is not None else self.true

    @model_validator(mode="after")
    def _one_condition(self) -> Retry:
        if self.on is not None and self.true is not None:
            raise ValueError("has on twice, once bare, which YAML takes for true: keep one, in quotes")
        return self


class Disruptions(Model):
    """How many attempts may be lost to what is no fault of the agent: evictions, lost nodes, preemption."""

    #: Attempts that may be lost; one more fails the task (`DisruptionLimit`). Default: 10.
    limit: Annotated[int, Field(ge=0, le=MAX_RETRIES)] = DEFAULT_DISRUPTIONS


class Retention(Model):
    """How long a finished run and its history are kept, and what of it."""

    #: Time from the run's end until its object and its history are deleted. Default: 168h.
    ttl_after_finished: Duration = "168h"
    #: Checkpoints that are kept for each task: the newest so many. Default: 10.
    checkpoints_per_task: Annotated[int, Field(ge=1, le=1000)] = 10
    #: Which pods of ended attempts are kept, with their logs, as long as the run: Always all, OnFailure those
    #: of attempts that did not succeed, Never none. Default: Always.
    pods: Literal["Always", "OnFailure", "Never"] = "Always"
