"""The cluster cache: objects as last observed, reduced to the fields that decisions need.

Watch events and full relists (`relist.py`) fill the store and may overtake each other, so an object is only
ever replaced by a newer version of itself. The store is a hint: no decision follows from an absence alone.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from perdure.control.cluster_cache.recent import remember
from perdure.control.cluster_cache.run_key import SCHEDULE, RunKey, run_key
from perdure.control.cluster_cache.run_objects import Children, Root, read_root, read_task
from perdure.control.cluster_cache.unreadable import UnreadableObjects
from perdure.control.passed_over import THROUGH
from perdure.domain.engine.pod_facts import PodFacts, read_pod
from perdure.domain.records import AGENT_TASK, WORKFLOW

POD = "Pod"
AGENT_TEMPLATE = "AgentTemplate"
WORKFLOW_TEMPLATE = "WorkflowTemplate"
#: Kinds that are watched.
KINDS = (WORKFLOW, AGENT_TASK, AGENT_TEMPLATE, WORKFLOW_TEMPLATE, SCHEDULE, POD)
#: How many uids of deleted objects to remember (LRU), so that a stale watch event cannot resurrect one.
REMOVED = 10_000
#: How many resourceVersions of own creates to remember (LRU): their ADDED events carry nothing new.
MADE = 10_000


@dataclass(slots=True)
class _Entry:
    version: int
    uid: str
    run: RunKey | None
    #: Key of a pod in `Children.pods`: the name of its Job, if a Job created the pod, else its own.
    kept_as: str = ""
    #: False for a pod whose labels have left the selector: no watch and no list has the pod.
    watched: bool = True


class _Tombstone(NamedTuple):
    #: resourceVersion of the deletion, or of the list that lacked the object.
    version: int
    #: Number of removals before this one.
    ordinal: int
    name: str


class Store:
    """Objects by run. `apply` and `remove` return the run to reconcile; None if no pass is needed."""

    def __init__(self) -> None:
        self.roots: dict[RunKey, Root] = {}
        self.children: dict[RunKey, Children] = {}
        #: Specs of AgentTemplates and of WorkflowTemplates.
        self.templates: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.workflow_templates: dict[tuple[str, str], Mapping[str, Any]] = {}
        #: Whole WorkflowSchedules.
        self.schedules: dict[RunKey, Mapping[str, Any]] = {}
        #: Workflows by the uid of the owner that created them.
        self._owned: dict[str, set[RunKey]] = {}
        self._dirty_owners: dict[RunKey, None] = {}
        self._entries: dict[tuple[str, str, str], _Entry] = {}
        #: Tombstones: the response to a write may arrive after the event of the object's deletion.
        self._removed: dict[str, _Tombstone] = {}
        #: Number of removals so far.
        self.removals = 0
        self._made: dict[str, None] = {}
        self.unreadable = UnreadableObjects()
        #: Uids of the runs that this process reconciles and that have not ended.
        self.working: set[str] = set()
        #: Finished runs whose object has changed since.
        self.altered: set[RunKey] = set()
        #: resourceVersions of the newest own writes of statuses.
        self._written: dict[tuple[str, str, str], int] = {}
        #: Objects whose status is being written, and the newest version that arrived meanwhile.
        self._writing: dict[tuple[str, str, str], tuple[int, Mapping[str, Any]] | None] = {}
        #: By finished run, the uids of pods whose retention has been decided.
        self._decided: dict[RunKey, set[str]] = {}

    def apply(self, kind: str, obj: Mapping[str, Any]) -> RunKey | None:
        """Store an object, unless a newer version of it is already stored.

        Returns the run to reconcile because of the object; None for most events, which are the echoes of own
        status writes.

        Never raises. An object that cannot be read is logged once and left out; an earlier version of the
        object stays. An exception would end the watch, the relist or the start for the objects of all other
        namespaces as well.
        """
        try:
            return self._apply(kind, obj)
        except THROUGH:
            raise
        except BaseException as error:
            self.unreadable.add(kind, obj, error)
            return None

    def _apply(self, kind: str, obj: Mapping[str, Any]) -> RunKey | None:
        metadata = obj["metadata"]
        place = (kind, metadata["namespace"], metadata["name"])
        version = int(metadata["resourceVersion"])
        entry = self._entries.get(place)
        if self._is_removed(kind, metadata["uid"], version) or (
            entry is not None and entry.version >= version
        ):
            return None
        if kind in (AGENT_TEMPLATE, WORKFLOW_TEMPLATE):
            self._entries[place] = _Entry(version, metadata["uid"], None)
            self._templates(kind)[place[1:]] = obj.get("spec") or {}
            return None
        known_pod = self._known_pod(entry, metadata["uid"]) if kind == POD else None
        # A pod stays its run's, whatever becomes of its labels.
        run = run_key(kind, obj) if known_pod is None or entry is None else entry.run
        if run is None:
            return None
        # Parsing precedes storing, so that an unreadable object leaves no partial state.
        is_root = kind != SCHEDULE and run == RunKey(kind, *place[1:])
        live = metadata["uid"] in self.working
        root_read = read_root(run, obj, version, live=live) if is_root else None
        facts = read_pod(obj) if kind == POD else None
        if facts is not None and known_pod is not None:
            facts = facts.identified_as(known_pod)
        # Events of pods and of roots are the most frequent, and are no task of a run.
        task = read_task(obj) if root_read is None and facts is None else None
        if entry is not None and entry.uid != metadata["uid"]:
            self._note_removed(entry.uid, None, metadata["name"])
            self._forget(place, entry)
        self._entries[place] = _Entry(version, metadata["uid"], run)
        if kind == SCHEDULE:
            self.schedules[run] = obj
            return run
        root = self.roots.get(run)
        finished = root is not None and root.finished
        foreign = kind != POD and entry is not None and self._is_foreign(run, place, version, obj, entry)
        if root_read is not None:
            return run if self._keep_root(root_read) or foreign else None
        if facts is not None:
            self._entries[place].kept_as, self._entries[place].watched = facts.name, facts.watched
            if finished and facts.ended and not self._is_undecided(run, facts):
                self._forget(place, self._entries[place])
                return run
            if self._is_second_pod(run, facts):
                # The next relist reports this pod again, and the other may be gone by then.
                del self._entries[place]
                self.of(run).surplus[facts.pod_name] = facts
                self.of(run).changed.add(facts.name)
                return run
            return run if self._keep_pod(run, facts) else None
        assert task is not None  # neither a root nor a pod
        if task.orphaned:
            self.of(run).orphans.add(place[2])
        elif self.has_orphans(run):
            self.of(run).orphans.discard(place[2])
        if finished and not task.orphaned:
            # No pass needs objects of a finished run, and every relist would bring all of them back.
            self._forget(place, self._entries[place])
            return None
        tasks = self.of(run).tasks
        known = tasks.get(place[2])
        tasks[place[2]] = task
        is_new = known is None or known.uid != metadata["uid"]
        return run if is_new or foreign or task.orphaned else None

    def _is_foreign(
        self, run: RunKey, place: tuple[str, str, str], version: int, obj: Mapping[str, Any], entry: _Entry
    ) -> bool:
        """Whether a version of an object comes from others; then its status is kept, to be written again."""
        status = obj.get("status") or {}
        if place in self._writing:
            self._writing[place] = version, status
            return False
        if version <= self._written.get(place, entry.version):
            return False
        return self._note_foreign(run, place, version, status)

    def _note_foreign(
        self, run: RunKey, place: tuple[str, str, str], version: int, status: Mapping[str, Any]
    ) -> bool:
        root = self.roots.get(run)
        if root is None:
            return False
        if root.uid in self.working:
            self._written[place] = version
            self.of(run).foreign[place[0], place[2]] = status
            return True
        if root.finished and run == RunKey(*place):
            self.altered.add(run)
            return True
        return False

    def begin_write(self, kind: str, namespace: str, name: str) -> None:
        """The status of an object is about to be written: the next version of the object may be our own."""
        self._writing.setdefault((kind, namespace, name), None)

    def end_write(self, kind: str, namespace: str, name: str, version: int | None) -> None:
        """The status of an object was written as this version, or was perhaps not written, if None."""
        place = kind, namespace, name
        arrived = self._writing.pop(place, None)
        entry = self._entries.get(place)
        if entry is None or entry.run is None:
            return
        if version is not None:
            self._written[place] = max(version, self._written.get(place, 0))
        if arrived is not None and arrived[0] > (version or 0):
            self._note_foreign(entry.run, place, *arrived)

    def has_orphans(self, run: RunKey) -> bool:
        """Whether AgentTasks of a run have no owner any more."""
        children = self.children.get(run)
        return children is not None and bool(children.orphans)

    def orphaned(self) -> list[RunKey]:
        """Runs with AgentTasks that have no owner any more."""
        return [key for key, children in self.children.items() if children.orphans]

    def apply_created(self, kind: str, obj: Mapping[str, Any]) -> None:
        """Store the response to an own create. The ADDED event of the object then carries nothing new."""
        self.apply(kind, obj)
        remember(self._made, obj["metadata"]["resourceVersion"], most=MADE)

    def apply_whole(self, kind: str, obj: Mapping[str, Any]) -> None:
        """Store an object of which the same version may be known by its metadata alone (`apply_created`)."""
        metadata = obj["metadata"]
        entry = self._entries.get((kind, metadata["namespace"], metadata["name"]))
        version = int(metadata["resourceVersion"])
        if entry is not None and (entry.uid, entry.version) == (metadata["uid"], version):
            entry.version -= 1
        self.apply(kind, obj)

    def is_own_create(self, version: str) -> bool:
        """Whether the ADDED event of this resourceVersion answers an own create; true once."""
        if version not in self._made:
            return False
        del self._made[version]
        return True

    def take_pod(self, run: RunKey, obj: Mapping[str, Any], known: PodFacts, *, since: int) -> None:
        """Store the pod of an attempt, which the API server has just answered with, whatever its labels say.

        `known` has the identity that the attempt gives the pod. `since` is the number of removals at the time
        of the question: the answer outweighs an earlier removal, since a pod whose labels left the selector
        is reported as deleted, but not a later one.

        Raises KeyError, TypeError, ValueError or AttributeError if the pod is malformed.
        """
        metadata = obj["metadata"]
        place = (POD, metadata["namespace"], metadata["name"])
        version = int(metadata["resourceVersion"])
        tombstone = self._removed.get(metadata["uid"])
        if tombstone is not None and tombstone.ordinal >= since and tombstone.version > version:
            return
        entry = self._entries.get(place)
        if entry is not None and entry.uid == metadata["uid"] and entry.version > version:
            return
        facts = read_pod(obj).identified_as(known)
        if entry is not None and (entry.uid, entry.run, entry.kept_as) != (
            metadata["uid"],
            run,
            facts.name,
        ):
            if entry.uid != metadata["uid"]:
                self._note_removed(entry.uid, version, metadata["name"])
            self._forget(place, entry)
        self._removed.pop(metadata["uid"], None)
        self._entries[place] = _Entry(version, metadata["uid"], run, facts.name, facts.watched)
        self._keep_pod(run, facts)

    def identify_pod(self, run: RunKey, known: PodFacts, *, attempt: int, task: str) -> PodFacts:
        """Correct what the labels of a run's pod say wrongly of its attempt. Returns the pod as kept."""
        pod = replace(known, attempt=attempt, task=task)
        self.of(run).pods[known.name] = pod
        return pod

    def removed_name(self, uid: str) -> str | None:
        """The name that a removed object had; None if the object was not removed lately."""
        tombstone = self._removed.get(uid)
        return None if tombstone is None else tombstone.name

    def remove(
        self, kind: str, namespace: str, name: str, *, uid: str | None = None, version: int | None = None
    ) -> RunKey | None:
        """Remove a deleted object. An object of the same name with another uid stays.

        `version` is the resourceVersion of the deletion, or of the list that lacks the object.
        """
        entry = self._entries.get((kind, namespace, name))
        if uid is not None:
            self._note_removed(uid, version, name)
        if entry is None or (uid is not None and entry.uid != uid):
            return None
        self._note_removed(entry.uid, version, name)
        self._forget((kind, namespace, name), entry)
        return entry.run

    def names(self, kind: str) -> Iterator[tuple[str, str, int, str]]:
        """Namespace, name, version and uid of every object of a kind that a list has to contain."""
        for (entry_kind, namespace, name), entry in self._entries.items():
            if entry_kind == kind and not self._is_followed(entry):
                yield namespace, name, entry.version, entry.uid

    def _is_followed(self, entry: _Entry) -> bool:
        """True for a pod that no list contains and of which its run asks the API server."""
        root = None if entry.watched or entry.run is None else self.roots.get(entry.run)
        return root is not None and not root.finished

    def of(self, run: RunKey) -> Children:
        """Objects that a run has created."""
        return self.children.setdefault(run, Children())

    def pod(self, namespace: str, name: str) -> PodFacts | None:
        """The pod of this name; None if it is not known, or not kept."""
        entry = self._entries.get((POD, namespace, name))
        if entry is None or entry.run is None or entry.run not in self.children:
            return None
        pod = self.children[entry.run].pods.get(entry.kept_as)
        return pod if pod is not None and pod.uid == entry.uid else None

    def release(self, run: RunKey) -> None:
        """Drop everything of a finished run except that it has finished."""
        children = self.children.pop(run, None)
        if children is None:
            return
        for name in children.tasks:
            self._entries.pop((AGENT_TASK, run.namespace, name), None)
        for pod in children.pods.values():
            self._entries.pop((POD, run.namespace, pod.pod_name), None)

    def decide_pods(self, run: RunKey, *, but: Container[str] = ()) -> None:
        """Note that whether the pods of an ended run stay is decided, except for those named in `but`."""
        pods = self.of(run).pods
        decided = {pod.uid for name, pod in pods.items() if not pod.kept and name not in but}
        if decided:
            self._decided.setdefault(run, set()).update(decided)

    def has_undecided_pods(self, run: RunKey) -> bool:
        """Whether an ended pod is here that the retention of its finished run may delete, undecided."""
        children = self.children.get(run)
        return children is not None and any(
            pod.ended and self._is_undecided(run, pod) for pod in children.pods.values()
        )

    def _is_undecided(self, run: RunKey, pod: PodFacts) -> bool:
        return not pod.kept and pod.uid not in self._decided.get(run, ())

    def has_running_pod(self, run: RunKey) -> bool:
        """Whether a pod of the run has not ended, as far as the store knows."""
        children = self.children.get(run)
        return children is not None and any(not pod.ended for pod in children.pods.values())

    def finished_with_pods(self) -> list[RunKey]:
        """Finished runs with pods: one may have been made by a request that came late."""
        return [
            key
            for key, children in self.children.items()
            if children.pods and key in self.roots and self.roots[key].finished
        ]

    def owned_by(self, uid: str) -> list[Root]:
        """Workflows whose controlling owner has this uid."""
        return [self.roots[key] for key in sorted(self._owned.get(uid, ()))]

    def pop_dirty_owners(self) -> list[RunKey]:
        """Runs and schedules to reconcile because a Workflow that they own has changed."""
        owners, self._dirty_owners = list(self._dirty_owners), {}
        return owners

    def _templates(self, kind: str) -> dict[tuple[str, str], Mapping[str, Any]]:
        return self.templates if kind == AGENT_TEMPLATE else self.workflow_templates

    def _keep_root(self, root: Root) -> bool:
        """Store a root. Returns whether more than its status has changed."""
        before = self.roots.get(root.key)
        self.roots[root.key] = root
        if root.owner_uid is not None:
            self._owned.setdefault(root.owner_uid, set()).add(root.key)
            if before is None or before.finished != root.finished:
                self._mark_owner_dirty(root)
        return before is None or any(
            getattr(before, field) != getattr(root, field)
            for field in ("uid", "fingerprint", "generation", "finished", "owner_uid", "leaving")
        )

    def _mark_owner_dirty(self, root: Root) -> None:
        if root.owner is None:
            return
        self._dirty_owners[root.owner] = None
        if root.owner in self.roots:
            self.of(root.owner).children_changed = True

    def _drop_root(self, key: RunKey) -> None:
        root = self.roots.pop(key, None)
        self._decided.pop(key, None)
        self.altered.discard(key)
        if root is None or root.owner_uid is None:
            return
        owned = self._owned.get(root.owner_uid, set())
        owned.discard(key)
        if not owned:
            self._owned.pop(root.owner_uid, None)
        self._mark_owner_dirty(root)

    def _is_second_pod(self, run: RunKey, facts: PodFacts) -> bool:
        """An attempt owns one pod. A second pod, of the same Job or of one created again, is ignored."""
        known = self.of(run).pods.get(facts.name)
        return known is not None and known.of_job and known.pod_name != facts.pod_name

    def _keep_pod(self, run: RunKey, facts: PodFacts) -> bool:
        """Store a pod. Returns whether its facts have changed."""
        children = self.of(run)
        if children.pods.get(facts.name) == facts:
            return False
        children.pods[facts.name] = facts
        children.changed.add(facts.name)
        return True

    def _known_pod(self, entry: _Entry | None, uid: str) -> PodFacts | None:
        """The facts of an earlier version of a pod."""
        if entry is None or entry.uid != uid or entry.run is None or entry.run not in self.children:
            return None
        pod = self.children[entry.run].pods.get(entry.kept_as)
        return pod if pod is not None and pod.uid == uid else None

    def _is_removed(self, kind: str, uid: str, version: int) -> bool:
        """Whether a version of an object is older than the object's removal.

        The watch of pods has a selector: a pod whose labels leave the selector is reported as deleted, and a
        newer version of it is reported once the labels are back. No other object outlives its removal.
        """
        tombstone = self._removed.get(uid)
        if tombstone is None:
            return False
        if kind == POD and version > tombstone.version:
            del self._removed[uid]
            return False
        return True

    def _note_removed(self, uid: str, version: int | None, name: str) -> None:
        # Without the version of the deletion, no version of the object is newer.
        known = self._removed.pop(uid, None)
        at = sys.maxsize if version is None else version
        if known is not None:
            at = max(at, known.version) if version is not None else known.version
        self._removed[uid] = _Tombstone(at, self.removals, name)
        self.removals += 1
        if len(self._removed) > REMOVED:
            del self._removed[next(iter(self._removed))]

    def _forget(self, place: tuple[str, str, str], entry: _Entry) -> None:
        del self._entries[place]
        self._written.pop(place, None)
        kind, namespace, name = place
        if kind in (AGENT_TEMPLATE, WORKFLOW_TEMPLATE):
            self._templates(kind).pop((namespace, name), None)
        if entry.run is None:
            return
        if kind == SCHEDULE:
            self.schedules.pop(entry.run, None)
            return
        children = self.children.get(entry.run)
        if entry.run == RunKey(*place):
            self._drop_root(entry.run)
        elif children is not None and kind == POD:
            kept = children.pods.get(entry.kept_as)
            if kept is not None and kept.uid == entry.uid:
                del children.pods[entry.kept_as]
            children.changed.add(entry.kept_as)
        elif children is not None:
            children.tasks.pop(name, None)
            children.orphans.discard(name)
        if children is not None and not (children.tasks or children.pods or entry.run in self.roots):
            del self.children[entry.run]
