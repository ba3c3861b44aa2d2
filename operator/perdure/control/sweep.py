"""A full look at the cluster: the backstop for every watch event that was lost.

A watch that has to start anew tells nothing of what was deleted meanwhile. So before a leader does anything,
and from time to time after, everything is listed and what the store has beyond that is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from perdure.control.ports import KubePort
from perdure.control.store import KINDS, POD, Store
from perdure.domain.names import LABEL_MANAGED_BY, MANAGED_BY

#: Only pods that a run made are of interest.
SELECTORS = {POD: f"{LABEL_MANAGED_BY}={MANAGED_BY}"}


async def sweep(kube: KubePort, store: Store, namespaces: Sequence[str]) -> None:
    """Bring the store in line with the cluster.

    `namespaces` empty means all. Raises ApiError; what was seen until then is kept.
    """
    for kind in KINDS:
        for namespace in namespaces or (None,):
            before = {
                (place, name): (seen, uid)
                for place, name, seen, uid in store.names(kind)
                if namespace is None or place == namespace
            }
            missing: dict[tuple[str, str], tuple[int, str]] = {}
            version = "0"
            pages = kube.pages(kind, namespace=namespace, label_selector=SELECTORS.get(kind))
            async with aclosing(pages):
                async for page in pages:
                    if page.first:
                        missing, version = dict(before), page.version
                    for obj in page.items:
                        missing.pop((obj["metadata"]["namespace"], obj["metadata"]["name"]), None)
                        store.apply(kind, obj)
            for (place, name), (seen, uid) in missing.items():
                # What appeared after the list was made is newer than it, and not missing from it. So is one
                # that was made anew under the same name meanwhile: hence the uid.
                if seen <= int(version):
                    store.remove(kind, place, name, uid=uid)
