"""The cluster as last seen, in memory and slim.

Filled by watch events and by full looks (`sweep.py`), which may overtake each other: an object is only ever
replaced by a newer version of itself. The store is a hint. Nothing is decided from an absence here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from perdure.control.keys import RunKey, run_key
from perdure.domain.facts import PodFacts, read_pod, read_time
from perdure.domain.phases import TERMINAL
from perdure.domain.records import AGENT_TASK, WORKFLOW

POD = "Pod"
AGENT_TEMPLATE = "AgentTemplate"
#: Kinds that are watched.
KINDS = (WORKFLOW, AGENT_TASK, AGENT_TEMPLATE, POD)
#: Objects that are no more, and of which late news is known by their uids. Later ones push out earlier ones.
REMOVED = 10_000
_TERMINAL = frozenset(phase.value for phase in TERMINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The object that a person applied."""

    key: RunKey
    uid: str
    version: int
    generation: int
    created_at: datetime
    #: None once it has finished: then nobody needs it any more.
    manifest: Mapping[str, Any] | None
    status: Mapping[str, Any] | None
    finished: bool


class TaskObject(NamedTuple):
    """An AgentTask that a run made, and the phase that its status shows."""

    uid: str
    shown_phase: str | None


@dataclass(slots=True)
class Children:
    """What a run has made, as far as it is of interest, and what changed since the run was last looked at."""

    #: Its AgentTask objects, by name.
    tasks: dict[str, TaskObject] = field(default_factory=dict)
    pods: dict[str, PodFacts] = field(default_factory=dict)
    #: Names of pods that changed, came or went.
    changed: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Entry:
    version: int
    uid: str
    run: RunKey | None


class Store:
    """Objects by run. `apply` and `remove` return the run to look at, None if nothing of interest changed."""

    def __init__(self) -> None:
        self.roots: dict[RunKey, Root] = {}
        self.children: dict[RunKey, Children] = {}
        self.templates: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._entries: dict[tuple[str, str, str], _Entry] = {}
        #: An answer of the API server may have been overtaken by the event of the object's deletion.
        self._removed: dict[str, None] = {}

    def apply(self, kind: str, obj: Mapping[str, Any]) -> RunKey | None:
        """Take in an object, unless a newer version of it is already here."""
        metadata = obj["metadata"]
        place = (kind, metadata["namespace"], metadata["name"])
        version = int(metadata["resourceVersion"])
        entry = self._entries.get(place)
        if metadata["uid"] in self._removed or (entry is not None and entry.version >= version):
            return None
        if kind == AGENT_TEMPLATE:
            self._entries[place] = _Entry(version, metadata["uid"], None)
            self.templates[place[1:]] = obj.get("spec") or {}
            return None
        run = run_key(kind, obj)
        if run is None:
            return None
        if entry is not None and entry.uid != metadata["uid"]:
            self._note_removed(entry.uid)
            self._forget(place, entry)
        self._entries[place] = _Entry(version, metadata["uid"], run)
        root = self.roots.get(run)
        finished = root is not None and root.finished
        if run == RunKey(kind, *place[1:]):
            self.roots[run] = _root(run, obj, version)
        elif kind == POD:
            facts = read_pod(obj)
            if finished and facts.ended:
                self._forget(place, self._entries[place])
            else:
                self._keep_pod(run, facts)
        elif finished:
            # Nobody looks at it again, and every full look would bring all of them back.
            self._forget(place, self._entries[place])
            return None
        else:
            self.of(run).tasks[place[2]] = TaskObject(metadata["uid"], (obj.get("status") or {}).get("phase"))
        return run

    def remove(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> RunKey | None:
        """Take out an object that is no more. One of another uid under the same name stays."""
        entry = self._entries.get((kind, namespace, name))
        if uid is not None:
            self._note_removed(uid)
        if entry is None or (uid is not None and entry.uid != uid):
            return None
        self._note_removed(entry.uid)
        self._forget((kind, namespace, name), entry)
        return entry.run

    def names(self, kind: str) -> Iterator[tuple[str, str, int]]:
        """Namespace, name and version of every object of a kind."""
        for (entry_kind, namespace, name), entry in self._entries.items():
            if entry_kind == kind:
                yield namespace, name, entry.version

    def of(self, run: RunKey) -> Children:
        """What a run has made."""
        return self.children.setdefault(run, Children())

    def release(self, run: RunKey) -> None:
        """Keep no more of a finished run than that it has finished."""
        children = self.children.pop(run, None)
        if children is None:
            return
        for name in children.tasks:
            self._entries.pop((AGENT_TASK, run.namespace, name), None)
        for name in children.pods:
            self._entries.pop((POD, run.namespace, name), None)

    def _keep_pod(self, run: RunKey, facts: PodFacts) -> None:
        children = self.of(run)
        if children.pods.get(facts.name) != facts:
            children.pods[facts.name] = facts
            children.changed.add(facts.name)

    def _note_removed(self, uid: str) -> None:
        self._removed[uid] = None
        if len(self._removed) > REMOVED:
            del self._removed[next(iter(self._removed))]

    def _forget(self, place: tuple[str, str, str], entry: _Entry) -> None:
        del self._entries[place]
        kind, namespace, name = place
        if kind == AGENT_TEMPLATE:
            self.templates.pop((namespace, name), None)
        if entry.run is None:
            return
        children = self.children.get(entry.run)
        if entry.run == RunKey(*place):
            self.roots.pop(entry.run, None)
        elif children is not None and kind == POD:
            children.pods.pop(name, None)
            children.changed.add(name)
        elif children is not None:
            children.tasks.pop(name, None)
        if children is not None and not (children.tasks or children.pods or entry.run in self.roots):
            del self.children[entry.run]


def _root(key: RunKey, obj: Mapping[str, Any], version: int) -> Root:
    metadata = obj["metadata"]
    status = obj.get("status") or {}
    finished = status.get("phase") in _TERMINAL
    return Root(
        key=key,
        uid=metadata["uid"],
        version=version,
        generation=metadata.get("generation", 1),
        created_at=read_time(metadata["creationTimestamp"]),
        manifest=None if finished else {"metadata": {"name": key.name}, "spec": obj.get("spec") or {}},
        status=None if finished else status,
        finished=finished,
    )
