"""What was seen of a run's pods and agents, as an argument of a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perdure.domain.facts import PodFacts
from perdure.domain.phases import Reason
from perdure.domain.records import Report, TaskKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The API server's refusal to make the pod of an attempt, for a cause that waiting does not heal."""

    attempt: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen of a run's open attempts. A task that is not mentioned has nothing new."""

    pods: Mapping[TaskKey, PodFacts] = field(default_factory=dict)
    #: Tasks whose pod was made, and of which the API server itself says that it is no more.
    gone: frozenset[TaskKey] = frozenset()
    #: Reports in the ledger, with the number of the attempt that made them.
    reports: Mapping[TaskKey, tuple[int, Report]] = field(default_factory=dict)
    refusals: Mapping[TaskKey, Refusal] = field(default_factory=dict)
    #: The object that a person applied is no more.
    deleted: bool = False
