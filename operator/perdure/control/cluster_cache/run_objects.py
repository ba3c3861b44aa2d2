"""Objects of one run as the cache keeps them: the object that was applied, its AgentTasks and its pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from zlib import crc32

from perdure.control.cluster_cache.run_key import RunKey, owner_key
from perdure.domain.engine.pod_facts import PodFacts, read_number, read_time
from perdure.domain.phases import TERMINAL
from perdure.domain.records import DesiredState

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
    desired_state: DesiredState = "Running"
    #: The Workflow or schedule that created the object; None if a person did.
    owner: RunKey | None = None
    owner_uid: str | None = None
    depth: int = 0
    #: Changes whenever people change the object: its generation, and a checksum of its annotations.
    fingerprint: str = ""


class TaskObject(NamedTuple):
    """An AgentTask that a run created, and the phase in its status."""

    uid: str
    shown_phase: str | None


@dataclass(slots=True)
class Children:
    """Objects that a run has created, and what changed since its last pass."""

    #: Its AgentTask objects, by name.
    tasks: dict[str, TaskObject] = field(default_factory=dict)
    pods: dict[str, PodFacts] = field(default_factory=dict)
    #: Further pods of Jobs that have one, by their own names.
    surplus: dict[str, PodFacts] = field(default_factory=dict)
    #: Names of pods that were created, changed or deleted.
    changed: set[str] = field(default_factory=set)
    #: A child Workflow was created, was deleted, or has ended.
    children_changed: bool = False


def read_root(key: RunKey, obj: Mapping[str, Any], version: int) -> Root:
    """The root of a run, from its manifest. Raises KeyError, TypeError, ValueError or AttributeError if the
    manifest is malformed."""
    metadata = obj["metadata"]
    spec: Mapping[str, Any] = obj.get("spec") or {}
    status = obj.get("status") or {}
    phase = status.get("phase")
    finished = phase in _TERMINAL
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


def _desired_state(spec: Mapping[str, Any]) -> DesiredState:
    """The desired state of a run; an unknown value counts as Running, and admission refuses it."""
    state = spec.get("desiredState")
    return state if state in ("Paused", "Cancelled") else "Running"


def _depth(metadata: Mapping[str, Any]) -> int:
    """The depth in the annotation, 0 if the annotation is no number."""
    return read_number((metadata.get("annotations") or {}).get(DEPTH_ANNOTATION), most=_MAX_DEPTH)
