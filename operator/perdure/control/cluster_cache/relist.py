"""A full look at the cluster: the backstop for every watch event that was lost.

A watch that has to start anew tells nothing of what was deleted meanwhile. So before a leader does anything,
and from time to time after, everything is listed and what the store has beyond that is taken out.
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

#: Only pods that a run made are of interest.
SELECTORS = {POD: f"{LABEL_MANAGED_BY}={MANAGED_BY}"}


def selected(kinds: Iterable[str], namespaces: Sequence[str]) -> list[Selection]:
    """What is of interest of these kinds, in these namespaces; in all of them if there are none."""
    return [
        Selection(kind, namespace, SELECTORS.get(kind))
        for kind in kinds
        for namespace in namespaces or (None,)
    ]


async def relist(kube: KubePort, store: Store, namespaces: Sequence[str]) -> dict[Selection, str]:
    """Bring the store in line with the cluster. Returns the version of each list: a watch can go on from it.

    `namespaces` empty means all. Raises ApiError; what was seen until then is kept.
    """
    versions: dict[Selection, str] = {}
    # The store keeps nothing that a finished run made, so runs come first. The rest at once: the API server
    # writes a page of one list while we read one of another.
    for kinds in ((WORKFLOW,), [kind for kind in KINDS if kind != WORKFLOW]):
        selections = selected(kinds, namespaces)
        looks = (_look(kube, store, selection) for selection in selections)
        # No group: what is raised has to arrive as it is, and by then nothing is to be under way any more.
        found = await asyncio.gather(*looks, return_exceptions=True)
        for selection, version in zip(selections, found, strict=True):
            if isinstance(version, BaseException):
                raise version
            versions[selection] = version
    return versions


async def _look(kube: KubePort, store: Store, of: Selection) -> str:
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
        # What appeared after the list was made is newer than it, and not missing from it. So is one
        # that was made anew under the same name meanwhile: hence the uid.
        if seen <= int(version):
            store.remove(of.kind, place, name, uid=uid)
    return version


def _place(obj: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of an object; empty for what is no object, which `Store.apply` reports."""
    metadata = obj.get("metadata") if isinstance(obj, Mapping) else None
    if not isinstance(metadata, Mapping):
        return "", ""
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))
