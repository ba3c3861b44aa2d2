"""Objects of one run as the cache keeps them: the object that was applied, its AgentTasks and its pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from zlib import crc32

from perdure.control.cluster_cache.run_key import RunKey, is_orphan, owner_key
from perdure.domain.engine.pod_facts import PodFacts, read_number, read_time
from perdure.domain.phases import TERMINAL, Phase
from perdure.domain.records import AGENT_TASK, WORKFLOW, DesiredState

#: Depth of a Workflow below the one that a person applied; child Workflows have this annotation.
DEPTH_ANNOTATION = "perdure.dev/depth"
#: The largest depth that is distinguished: every depth beyond the limit is refused alike.
_MAX_DEPTH = 999
_TERMINAL = frozenset(phase.value for phase in TERMINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The object that a person applied."""

    key: RunKey
    uid: str
    version: int
    generation: int
    created_at: datetime
    #: None once the run has finished: no pass reads the manifest any more.
    manifest: Mapping[str, Any] | None
    status: Mapping[str, Any] | None
    phase: str | None = None
    finished: bool
    #: The generation that the status acknowledges.
    observed_generation: int = 0
    #: The object is being deleted, however long finalizers of others hold it.
    deleting: bool = False
    #: A run created the object, which has no owner any more.
    orphaned: bool = False
    desired_state: DesiredState = "Running"
    #: The Workflow or schedule that created the object; None if a person did.
    owner: RunKey | None = None
    owner_uid: str | None = None
    depth: int = 0
    #: Changes whenever people change the object: its generation, and a checksum of its annotations.
    fingerprint: str = ""

    @property
    def leaving(self) -> bool:
        """Whether everything of the run is to be stopped, and nothing more to be created."""
        return self.deleting or self.orphaned


class TaskObject(NamedTuple):
    """An AgentTask that a run created, and what its status says."""

    uid: str
    shown_phase: str | None
    #: Type, status and lastTransitionTime of the conditions, which the next status has to keep.
    conditions: tuple[tuple[str, str, str], ...] = ()
    orphaned: bool = False


@dataclass(slots=True)
class Children:
    """Objects that a run has created, and what changed since its last pass."""

    #: Its AgentTask objects, by name.
    tasks: dict[str, TaskObject] = field(default_factory=dict)
    pods: dict[str, PodFacts] = field(default_factory=dict)
    #: Further pods of Jobs that have one, by their own names.
    surplus: dict[str, PodFacts] = field(default_factory=dict)
    #: Names of AgentTasks that have no owner any more.
    orphans: set[str] = field(default_factory=set)
    #: Statuses that others wrote, by kind and name of the object: they are written again.
    foreign: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    #: Names of pods that were created, changed or deleted.
    changed: set[str] = field(default_factory=set)
    #: A child Workflow was created, was deleted, or has ended.
    children_changed: bool = False


def read_task(obj: Mapping[str, Any]) -> TaskObject:
    """An AgentTask that a run created. Raises AttributeError or TypeError if its status is malformed."""
    status = obj.get("status") or {}
    return TaskObject(
        obj["metadata"]["uid"],
        status.get("phase"),
        tuple(
            (str(item.get("type")), str(item.get("status")), str(item.get("lastTransitionTime") or ""))
            for item in status.get("conditions") or ()
        ),
        orphaned=is_orphan(AGENT_TASK, obj),
    )


def read_root(key: RunKey, obj: Mapping[str, Any], version: int, *, live: bool = False) -> Root:
    """The root of a run, from its manifest. No status says of a `live` run that it has ended.

    Raises KeyError, TypeError, ValueError or AttributeError if the
    manifest is malformed."""
    metadata = obj["metadata"]
    spec: Mapping[str, Any] = obj.get("spec") or {}
    status = obj.get("status") or {}
    phase = status.get("phase")
    finished = not live and phase in _TERMINAL and _is_final(status)
    owner = owner_key(obj)
    return Root(
        key=key,
        uid=metadata["uid"],
        version=version,
        generation=metadata.get("generation", 1),
        created_at=read_time(metadata["creationTimestamp"]),
        manifest=None if finished else {"metadata": {"name": key.name}, "spec": spec},
        status=None if finished else status,
        phase=phase,
        finished=finished,
        observed_generation=_generation(status),
        deleting="deletionTimestamp" in metadata,
        orphaned=key.kind == WORKFLOW and is_orphan(WORKFLOW, obj),
        desired_state=_desired_state(spec),
        owner=None if owner is None else owner[0],
        owner_uid=None if owner is None else owner[1],
        depth=_depth(metadata),
        fingerprint=fingerprint_of(metadata),
    )


def fingerprint_of(metadata: Mapping[str, Any]) -> str:
    """A short text that changes whenever people change an object: its spec, or its annotations."""
    annotations = metadata.get("annotations") or {}
    text = "".join(f"{name}={value}\n" for name, value in sorted(annotations.items()))
    return f"{metadata.get('generation', 1)}-{crc32(text.encode()):08x}"


def is_behind(root: Root) -> bool:
    """Whether the status of an object acknowledges an older generation than the object has."""
    return 0 < root.observed_generation < root.generation


def _is_final(status: Mapping[str, Any]) -> bool:
    """Whether a status with a terminal phase is one that Perdure has written: its condition says the same."""
    condition = "Complete" if status["phase"] == Phase.SUCCEEDED.value else "Failed"
    return any(
        item.get("type") == condition and item.get("status") == "True"
        for item in status.get("conditions") or ()
    )


def _generation(status: Mapping[str, Any]) -> int:
    generation = status.get("observedGeneration")
    return generation if isinstance(generation, int) else 0


def _desired_state(spec: Mapping[str, Any]) -> DesiredState:
    """The desired state of a run; an unknown value counts as Running, and admission refuses it."""
    state = spec.get("desiredState")
    return state if state in ("Paused", "Cancelled") else "Running"


def _depth(metadata: Mapping[str, Any]) -> int:
    """The depth in the annotation, 0 if the annotation is no number."""
    return read_number((metadata.get("annotations") or {}).get(DEPTH_ANNOTATION), most=_MAX_DEPTH)
