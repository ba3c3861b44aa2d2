"""The full relist of the cluster: the backstop for every watch event that was lost.

A watch that lists instead of resuming reports no deletion that happened in between. So before its first
decision, and periodically afterwards, a leader lists everything, and objects that the lists lack leave the
store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from perdure.control.cluster_cache.store import KINDS, POD, Store
from perdure.control.ports import KubePort
from perdure.domain.names import LABEL_MANAGED_BY, MANAGED_BY
from perdure.domain.records import WORKFLOW
from perdure.kube.reflector import Selection

#: Label selectors by kind: of all pods only those that runs have created.
SELECTORS = {POD: f"{LABEL_MANAGED_BY}={MANAGED_BY}"}


def selected(kinds: Iterable[str], namespaces: Sequence[str]) -> list[Selection]:
    """The selections to list and watch for these kinds, in these namespaces; in all if there are none."""
    return [
        Selection(kind, namespace, SELECTORS.get(kind))
        for kind in kinds
        for namespace in namespaces or (None,)
    ]


async def relist(kube: KubePort, store: Store, namespaces: Sequence[str]) -> dict[Selection, str]:
    """Bring the store in line with the cluster. Returns the resourceVersion of each list, for a watch.

    `namespaces` empty means all. Raises ApiError; objects that were listed until then stay in the store.
    """
    versions: dict[Selection, str] = {}
    # The store keeps no objects of finished runs, so Workflows are listed first. The other lists run
    # concurrently: the API server encodes a page of one list while a page of another is decoded here.
    for kinds in ((WORKFLOW,), [kind for kind in KINDS if kind != WORKFLOW]):
        selections = selected(kinds, namespaces)
        lists = (_list(kube, store, selection) for selection in selections)
        # No TaskGroup: callers expect an ApiError, not a group, and only after all lists have ended.
        found = await asyncio.gather(*lists, return_exceptions=True)
        for selection, version in zip(selections, found, strict=True):
            if isinstance(version, BaseException):
                raise version
            versions[selection] = version
    return versions


async def _list(kube: KubePort, store: Store, of: Selection) -> str:
    before = {
        (place, name): (seen, uid)
        for place, name, seen, uid in store.names(of.kind)
        if of.namespace is None or place == of.namespace
    }
    missing: dict[tuple[str, str], tuple[int, str]] = {}
    version = "0"
    pages = kube.pages(of.kind, namespace=of.namespace, label_selector=of.label_selector)
    async with aclosing(pages):
        async for page in pages:
            if page.first:
                missing, version = dict(before), page.version
            for obj in page.items:
                missing.pop(_place(obj), None)
                store.apply(of.kind, obj)
    for (place, name), (seen, uid) in missing.items():
        # An object newer than the list is not missing from it. Neither is an object of the same name that
        # was created again meanwhile: hence the uid.
        if seen <= int(version):
            store.remove(of.kind, place, name, uid=uid)
    return version


def _place(obj: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of an object; empty for what is no object, which `Store.apply` reports."""
    metadata = obj.get("metadata") if isinstance(obj, Mapping) else None
    if not isinstance(metadata, Mapping):
        return "", ""
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))
