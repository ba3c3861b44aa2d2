"""The full relist of the cluster: the backstop for every watch event that was lost.

A watch that lists instead of resuming reports no deletion that happened in between. So before its first
decision, and periodically afterwards, a leader lists everything, and objects that the lists lack leave the
store.

Of several namespaces one that may not be read, or was deleted, is left out: its administrators decide who may
read it, and must not decide about the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from perdure.control.cluster_cache.store import KINDS, POD, Store
from perdure.control.passed_over import PassedOver
from perdure.control.ports import KubePort
from perdure.domain.names import LABEL_MANAGED_BY, MANAGED_BY
from perdure.domain.records import WORKFLOW
from perdure.kube.errors import ApiError
from perdure.kube.reflector import Selection

#: Label selectors by kind: of all pods only those that runs have created.
SELECTORS = {POD: f"{LABEL_MANAGED_BY}={MANAGED_BY}"}
#: Objects of a page after which other tasks have a turn. Reading so many takes a few milliseconds.
SLICE = 50


@dataclass(slots=True)
class Relisted:
    """The outcome of a relist."""

    #: The resourceVersion of each list, from which a watch may continue.
    versions: dict[Selection, str] = field(default_factory=dict)
    #: Namespaces that were left out, with the API server's refusal. Their objects stay as they were.
    left_out: dict[str, ApiError] = field(default_factory=dict)


def selected(kinds: Iterable[str], namespaces: Sequence[str]) -> list[Selection]:
    """The selections to list and watch for these kinds, in these namespaces; in all if there are none."""
    return [
        Selection(kind, namespace, SELECTORS.get(kind))
        for kind in kinds
        for namespace in namespaces or (None,)
    ]


async def relist(
    kube: KubePort, store: Store, namespaces: Sequence[str], passed_over: PassedOver | None = None
) -> Relisted:
    """Bring the store in line with the cluster.

    `namespaces` empty means all, in one list of each kind. Raises ApiError, unless the refusal concerns one
    of several namespaces; objects that were listed until then stay in the store.
    """
    relisted = Relisted()
    passed_over = passed_over or PassedOver()
    # The store keeps no objects of finished runs, so Workflows are listed first. The other lists run
    # concurrently: the API server encodes a page of one list while a page of another is decoded here.
    for kinds in ((WORKFLOW,), [kind for kind in KINDS if kind != WORKFLOW]):
        selections = [
            selection
            for selection in selected(kinds, namespaces)
            if selection.namespace not in relisted.left_out
        ]
        lists = (_list(kube, store, selection, passed_over) for selection in selections)
        # No TaskGroup: callers expect an ApiError, not a group, and only after all lists have ended.
        found = await asyncio.gather(*lists, return_exceptions=True)
        for selection, version in zip(selections, found, strict=True):
            if isinstance(version, ApiError) and is_refusal(version) and selection.namespace is not None:
                relisted.left_out[selection.namespace] = version
            elif isinstance(version, BaseException):
                raise version
            else:
                relisted.versions[selection] = version
    for selection in [it for it in relisted.versions if it.namespace in relisted.left_out]:
        del relisted.versions[selection]
    return relisted


def is_refusal(error: ApiError) -> bool:
    """Whether an answer is about one namespace alone: it may not be read, or was deleted."""
    return error.status in (403, 404)


async def _list(kube: KubePort, store: Store, of: Selection, passed_over: PassedOver) -> str:
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
            for number, obj in enumerate(page.items, 1):
                missing.pop(_place(obj), None)
                store.apply(of.kind, obj)
                if number % SLICE == 0:
                    await asyncio.sleep(0)
    for number, ((place, name), (seen, uid)) in enumerate(missing.items(), 1):
        # An object newer than the list is not missing from it. Neither is an object of the same name that
        # was created again meanwhile: hence the uid.
        with passed_over.guard("relist", f"{of.kind} {place}/{name}"):
            if seen <= int(version):
                store.remove(of.kind, place, name, uid=uid, version=int(version))
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return version


def _place(obj: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of an object; empty for what is no object, which `Store.apply` reports."""
    metadata = obj.get("metadata") if isinstance(obj, Mapping) else None
    if not isinstance(metadata, Mapping):
        return "", ""
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))
