"""The API server in memory: objects with versions, watches that misbehave, and the garbage collector.

Objects are never changed in place, so that everybody may hold the same one and the past can be served again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from perdure.control.cluster_cache.relist import SELECTORS
from perdure.kube.errors import ApiError
from tests.fakes.clock import now
from tests.fakes.faults import Faults
from tests.fakes.network import OUTSIDE, Result, Server

Object = dict[str, Any]
Place = tuple[str, str, str]
NAMESPACE: Final = "default"
#: Seconds of grace that a deleted pod has.
GRACE: Final = 30
#: Seconds back in time from which a stale list may be.
STALE: Final = 20.0


def unreachable(text: str) -> ApiError:
    return ApiError(0, "", text)


class Watch:
    """The watches of one operator: they lose, reorder and repeat events."""

    def __init__(
        self,
        api: ApiServer,
        context: contextvars.Context,
        handle: Callable[[str, Mapping[str, Any], bool], None],
        gap: Callable[[], None],
    ) -> None:
        self._api = api
        self._context = context
        self._handle = handle
        self._gap = gap
        self.broken = False
        #: Events that a lagging watch cache has not delivered yet.
        self._held: list[tuple[str, Object, bool]] = []

    def push(self, kind: str, obj: Object, deleted: bool) -> None:
        faults = self._api.faults
        if obj["metadata"].get("namespace") in self._api.forbidden:
            return
        if self.broken or self._api.away or faults.happens("event lost"):
            self.broken |= self._api.away
            return
        if self._api.lags_since is not None:
            self._held.append((kind, obj, deleted))
            return
        loop = asyncio.get_running_loop()
        delay = faults.between(0.0005, 0.01)
        if faults.happens("event late"):
            delay = faults.between(0.5, 20.0)
        loop.call_later(delay, self._handle, kind, obj, deleted, context=self._context)
        if faults.happens("event twice"):
            delay = faults.between(0.5, 20.0)
            loop.call_later(delay, self._handle, kind, obj, deleted, context=self._context)

    def catch_up(self) -> None:
        """Deliver what the lagging cache has held back."""
        held, self._held = self._held, []
        for kind, obj, deleted in held:
            self.push(kind, obj, deleted)

    def relist(self) -> None:
        """List instead of resuming: no event reports what was deleted meanwhile."""
        self.broken = False
        delay = self._api.faults.between(0.001, 0.1)
        asyncio.get_running_loop().call_later(delay, self._relist, context=self._context)

    def _relist(self) -> None:
        for (kind, namespace, _), obj in self._api.listed()[0].items():
            if namespace not in self._api.forbidden and is_watched(kind, obj):
                self._handle(kind, obj, False)
        self._gap()


class ApiServer(Server):
    """The API server: each verb is executed at one moment. Raises ApiError."""

    def __init__(self, faults: Faults) -> None:
        super().__init__("api", faults, unreachable)
        self.objects: dict[Place, Object] = {}
        #: Every change: when, version, what, and what was there before.
        self._changes: list[tuple[float, Place, Object | None]] = []
        self._version = 0
        self._uids = 0
        #: Uids of owners that exist without an object here.
        self.other_owners: set[str] = set()
        self.watches: list[Watch] = []
        #: Since when lists and watches are served from a cache that lags behind; None if they are not.
        self.lags_since: float | None = None
        self.quota_used_up = False
        #: The answer to creates of objects that another object owns, if it is a refusal.
        self.refusal: ApiError | None = None
        #: Namespaces in which operators may read and write nothing, with the status of the answers.
        self.forbidden: dict[str, int] = {}
        #: Namespaces in which operators and the garbage collector may delete nothing.
        self.undeletable: set[str] = set()
        #: The server has just started and has not read the roles yet: it forbids everything.
        self.roles_unread = False
        #: Called with a text for every change, for people.
        self.trace: Callable[[str], None] | None = None
        #: Called for created objects, pods that are to terminate, removed objects, and collected garbage.
        self.on_made: Callable[[str, Object], None] = lambda kind, obj: None
        self.on_terminating: Callable[[Object], None] = lambda obj: None
        self.on_removed: Callable[[Object], None] = lambda obj: None
        self.on_collected: Callable[[Object], None] = lambda obj: None
        #: Called for a Job whose spec was changed.
        self.on_job_changed: Callable[[Object], None] = lambda obj: None

    async def call(self, effect: Callable[[], Result], *, may_be_late: bool = True) -> Result:
        def allowed() -> Result:
            if self.roles_unread and not self.faults.quiesced:
                raise ApiError(403, "Forbidden", "no role allows this")
            return effect()

        return await super().call(allowed, may_be_late=may_be_late)

    # --- the verbs

    def get(self, kind: str, namespace: str, name: str) -> Object:
        found = self.objects.get((kind, namespace, name))
        if found is None:
            raise ApiError(404, "NotFound", f"{kind} {name}")
        return found

    def listing(
        self, kind: str, namespace: str | None, label_selector: str | None
    ) -> tuple[list[Object], str]:
        # A list of one namespace serves one run, and is consistent; a list of all may be stale.
        objects, version = self.listed() if namespace is None else (self.objects, self._version)
        found = [
            obj
            for place, obj in objects.items()
            if place[0] == kind and namespace in (None, place[1]) and _is_selected(obj, label_selector)
        ]
        return found, str(version)

    def warnings(self, namespace: str, uid: str) -> list[Object]:
        """Events of type Warning about the object with this uid."""
        events = (obj for place, obj in self.objects.items() if place[:2] == ("Event", namespace))
        return [it for it in events if it["type"] == "Warning" and it["regarding"]["uid"] == uid]

    def create(self, kind: str, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        if (kind, namespace, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f"{kind} {name}")
        if kind in ("Pod", "Job") and self.quota_used_up and not self.faults.quiesced:
            raise ApiError(403, "Forbidden", "exceeded quota: pods")
        if self.refusal is not None and body["metadata"].get("ownerReferences") and not self.faults.quiesced:
            raise self.refusal
        self._uids += 1
        metadata = {
            **body["metadata"],
            "namespace": namespace,
            "uid": f"{self._uids:08x}-0000-4000-8000-{self._uids:012x}",
            "generation": 1,
            "creationTimestamp": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        made = self._put((kind, namespace, name), {**body, "metadata": metadata})
        self.on_made(kind, made)
        for owner in metadata.get("ownerReferences") or ():
            uids = (obj["metadata"]["uid"] for obj in self.objects.values())
            if owner["uid"] not in self.other_owners and owner["uid"] not in uids:
                self._collect_soon(owner["uid"])
        return made

    def replace(self, kind: str, namespace: str, name: str, body: Object) -> Object:
        there = self.get(kind, namespace, name)
        if body["metadata"].get("resourceVersion") not in (None, there["metadata"]["resourceVersion"]):
            raise ApiError(409, "Conflict", f"{kind} {name} has changed")
        return self._put((kind, namespace, name), {**body, "metadata": dict(there["metadata"])})

    def patch(self, kind: str, namespace: str, name: str, body: Object) -> Object:
        """A merge patch of top-level fields of the spec; a uid in the body is a precondition."""
        there = self.get(kind, namespace, name)
        if body.get("metadata", {}).get("uid", there["metadata"]["uid"]) != there["metadata"]["uid"]:
            raise ApiError(409, "Conflict", "the UID in the precondition differs")
        metadata = {**there["metadata"], "generation": there["metadata"]["generation"] + 1}
        spec = {**there["spec"], **body["spec"]}
        return self._put((kind, namespace, name), {**there, "metadata": metadata, "spec": spec})

    def patch_status(self, kind: str, namespace: str, name: str, body: list[Object]) -> Object:
        obj = dict(self.get(kind, namespace, name))
        for change in body:
            _apply(obj, change)
        return self._put((kind, namespace, name), obj)

    def delete(self, kind: str, namespace: str, name: str, uid: str | None) -> None:
        obj = self.objects.get((kind, namespace, name))
        if obj is None or uid not in (None, obj["metadata"]["uid"]):
            return
        if kind == "Pod" and _is_bound(obj):
            if "deletionTimestamp" not in obj["metadata"]:
                end = _seconds_from_now(GRACE)
                metadata = {**obj["metadata"], "deletionTimestamp": end}
                self.on_terminating(self._put((kind, namespace, name), {**obj, "metadata": metadata}))
            return
        self.remove(kind, namespace, name)

    # --- what others do

    def change(self, obj: Object, kind: str, **fields: Any) -> bool:
        """Write top-level fields of an object. Returns False if the object was deleted."""
        metadata = obj["metadata"]
        place = kind, metadata["namespace"], metadata["name"]
        there = self.objects.get(place)
        if there is None or there["metadata"]["uid"] != metadata["uid"]:
            return False
        self._put(place, {**there, **fields})
        return True

    def relabel(self, obj: Object, kind: str, labels: Mapping[str, str | None], **fields: Any) -> bool:
        """What `kubectl label --overwrite` does; None removes a label. Further `fields` replace metadata."""
        metadata = obj["metadata"]
        there = self.objects.get((kind, metadata["namespace"], metadata["name"]))
        if there is None:
            return False
        merged = {**(there["metadata"].get("labels") or {}), **labels}
        kept = {name: text for name, text in merged.items() if text is not None}
        return self.change(obj, kind, metadata={**there["metadata"], "labels": kept, **fields})

    def set_spec(self, kind: str, namespace: str, name: str, **fields: Any) -> None:
        """What `kubectl patch` does to top-level fields of a spec."""
        there = self.get(kind, namespace, name)
        self.change(there, kind, spec={**there["spec"], **fields})

    def desire(self, kind: str, name: str, state: str, *, namespace: str = NAMESPACE) -> None:
        """What `kubectl patch` does to `spec.desiredState`."""
        there = self.objects.get((kind, namespace, name))
        if there is not None and there["spec"].get("desiredState") != "Cancelled":
            metadata = {**there["metadata"], "generation": there["metadata"]["generation"] + 1}
            spec = {**there["spec"], "desiredState": state}
            self._put((kind, namespace, name), {**there, "metadata": metadata, "spec": spec})

    def remove(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Remove an object at once, and after a while its dependents."""
        place = kind, namespace, name
        obj = self.objects.get(place)
        if obj is None or uid not in (None, obj["metadata"]["uid"]):
            return
        del self.objects[place]
        if self.trace is not None:
            self.trace(f"{kind} {name} {obj['metadata']['uid'][:8]} is gone")
        self._version += 1
        self._note(place, obj)
        gone = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        for watch in self.watches if is_watched(kind, obj) else ():
            watch.push(kind, gone, True)
        self._collect_soon(obj["metadata"]["uid"])
        if kind == "Pod":
            self.on_removed(obj)

    def hold(self, kind: str, namespace: str, name: str, finalizer: str = "example.com/audit") -> Object:
        """A finalizer of another controller, and a deletion: the object stays until `release`."""
        there = self.get(kind, namespace, name)
        metadata = {**there["metadata"], "finalizers": [finalizer], "deletionTimestamp": _seconds_from_now(0)}
        self.change(there, kind, metadata=metadata)
        return there

    def orphan(self, kind: str, namespace: str, name: str) -> None:
        """What `kubectl delete --cascade=orphan` does: owners are taken from dependents, which stay."""
        uid = self.hold(kind, namespace, name, "orphan")["metadata"]["uid"]
        for (dependent, _, _), obj in list(self.objects.items()):
            owners = obj["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == uid for owner in owners):
                left = [owner for owner in owners if owner["uid"] != uid]
                self.change(obj, dependent, metadata={**obj["metadata"], "ownerReferences": left})
        self.remove(kind, namespace, name)

    def all(self, kind: str) -> list[Object]:
        return [obj for place, obj in self.objects.items() if place[0] == kind]

    def listed(self) -> tuple[Mapping[Place, Object], int]:
        """The objects of a list and its resourceVersion: current, or from a stale watch cache."""
        since = self.lags_since
        if since is None and self.faults.happens("list stale"):
            since = asyncio.get_running_loop().time() - self.faults.between(0.0, STALE)
        if since is None:
            return self.objects, self._version
        objects, version = dict(self.objects), self._version
        for at, place, before in reversed(self._changes):
            if at <= since:
                break
            version -= 1
            objects.pop(place, None)
            if before is not None:
                objects[place] = before
        return objects, version

    def forbid(self, namespace: str, status: int) -> None:
        """A role binding was deleted (403), or the whole namespace (404)."""
        self.forbidden[namespace] = status

    def allow(self, namespace: str) -> None:
        """A forbidden namespace can be read again, and the watches list it."""
        del self.forbidden[namespace]
        for watch in self.watches:
            watch.relist()

    def lag(self) -> None:
        """From now on lists and watches are served from a stale cache."""
        if self.lags_since is None:
            self.lags_since = asyncio.get_running_loop().time()

    def catch_up(self) -> None:
        self.lags_since = None
        for watch in self.watches:
            watch.catch_up()

    def come_back(self) -> None:
        super().come_back()
        for watch in self.watches:
            if watch.broken:
                watch.relist()

    def check_allowed(self, verb: str, kind: str, namespace: str | None) -> None:
        """Refuse what an operator may not do. Its Lease is in a namespace of its own."""
        if namespace is None or kind == "Lease":
            return
        if namespace in self.forbidden:
            raise ApiError(self.forbidden[namespace], "Refused", f"nothing is allowed in {namespace}")
        if verb == "delete" and namespace in self.undeletable:
            raise ApiError(403, "Forbidden", 'admission webhook "keep" denied the request')

    # --- underneath

    def _put(self, place: Place, obj: Object) -> Object:
        self._version += 1
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self._version)}
        before = self.objects.get(place)
        self._note(place, before)
        if self.trace is not None and place[0] != "Lease":
            self.trace(f"{place[0]} {place[2]} {obj['metadata']['uid'][:8]}: {_summary(obj)}")
        self.objects[place] = obj
        if is_watched(place[0], obj):
            for watch in self.watches:
                watch.push(place[0], obj, False)
        elif before is not None and is_watched(place[0], before):
            # To a watch with a selector, an object that leaves the selector is deleted.
            left = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self._version)}}
            for watch in self.watches:
                watch.push(place[0], left, True)
        if place[0] == "Job" and before is not None and before.get("spec") != obj.get("spec"):
            self.on_job_changed(obj)
        return obj

    def _note(self, place: Place, before: Object | None) -> None:
        self._changes.append((asyncio.get_running_loop().time(), place, before))

    def _collect_soon(self, owner_uid: str) -> None:
        most = 60.0 if self.faults.happens("late garbage") else 1.0
        loop = asyncio.get_running_loop()
        loop.call_later(self.faults.between(0.01, most), self._collect, owner_uid, context=OUTSIDE)

    def _collect(self, owner_uid: str) -> None:
        if self.away:
            self._collect_soon(owner_uid)
            return
        refused = False
        for (kind, namespace, name), obj in list(self.objects.items()):
            owners = obj["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == owner_uid for owner in owners):
                if namespace in self.undeletable or namespace in self.forbidden:
                    refused = True
                    continue
                self.on_collected(obj)
                self.delete(kind, namespace, name, obj["metadata"]["uid"])
        if refused:
            # The garbage collector tries again: once, however many dependents there are. One retry for each
            # would double their number at every retry.
            self._collect_soon(owner_uid)


def _seconds_from_now(seconds: float) -> str:
    return (now() + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _summary(obj: Object) -> str:
    status = obj.get("status") or {}
    states = [container["state"] for container in status.get("containerStatuses") or ()]
    deletion = obj["metadata"].get("deletionTimestamp", "")
    desired = (obj.get("spec") or {}).get("desiredState", "")
    return f"{status.get('phase', 'new')} {states or ''} {deletion} {desired}"


def _is_bound(pod: Object) -> bool:
    """Whether the deletion of a pod waits for its kubelet."""
    return "nodeName" in (pod.get("spec") or {}) and (pod.get("status") or {}).get("phase") not in (
        "Succeeded",
        "Failed",
    )


def is_watched(kind: str, obj: Object) -> bool:
    """Whether the operator's watch of a kind selects an object."""
    return _is_selected(obj, SELECTORS.get(kind))


def _is_selected(obj: Object, selector: str | None) -> bool:
    if not selector:
        return True
    labels = obj["metadata"].get("labels") or {}
    return all(labels.get(term.partition("=")[0]) == term.partition("=")[2] for term in selector.split(","))


def _apply(obj: Object, change: Mapping[str, Any]) -> None:
    """Apply one operation of a JSON patch, as far as statuses use it."""
    parts = [part for part in change["path"].split("/") if part]
    target = obj
    for part in parts[:-1]:
        if part not in target:
            raise ApiError(422, "Invalid", f"no path {change['path']}")
        target[part] = dict(target[part])
        target = target[part]
    if change["op"] == "test":
        if target.get(parts[-1]) != change["value"]:
            raise ApiError(422, "Invalid", "the test failed")
    elif change["op"] == "add":
        target[parts[-1]] = change["value"]
    elif parts[-1] in target:
        del target[parts[-1]]
    else:
        raise ApiError(422, "Invalid", f"no path {change['path']}")
