"""A full look at the cluster: the backstop for every watch event that was lost.

A watch that has to start anew tells nothing of what was deleted meanwhile. So before a leader does anything,
and from time to time after, everything is listed and what the store has beyond that is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from perdure.control.keys import RunKey
from perdure.control.ports import KubePort
from perdure.control.store import KINDS, POD, Store
from perdure.domain.names import LABEL_MANAGED_BY, MANAGED_BY

#: Only pods that a run made are of interest.
SELECTORS = {POD: f"{LABEL_MANAGED_BY}={MANAGED_BY}"}


async def sweep(kube: KubePort, store: Store, namespaces: Sequence[str]) -> set[RunKey]:
    """Bring the store in line with the cluster. Returns the runs of which something changed.

    `namespaces` empty means all. Raises ApiError; what was seen until then is kept.
    """
    changed: set[RunKey] = set()
    for kind in KINDS:
        for namespace in namespaces or (None,):
            before = {
                (place[0], place[1]): place[2]
                for place in store.names(kind)
                if namespace is None or place[0] == namespace
            }
            missing: dict[tuple[str, str], int] = {}
            version = "0"
            pages = kube.pages(kind, namespace=namespace, label_selector=SELECTORS.get(kind))
            async with aclosing(pages):
                async for page in pages:
                    if page.first:
                        missing, version = dict(before), page.version
                    for obj in page.items:
                        missing.pop((obj["metadata"]["namespace"], obj["metadata"]["name"]), None)
                        changed.add(key) if (key := store.apply(kind, obj)) is not None else None
            for (place, name), seen in missing.items():
                # What appeared after the list was made is newer than it, and not missing from it.
                if seen <= int(version) and (key := store.remove(kind, place, name)) is not None:
                    changed.add(key)
    return changed
