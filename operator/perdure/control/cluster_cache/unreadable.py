"""Objects that could not be read: each is logged once, and left out of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from perdure.control.cluster_cache.recent import remember
from perdure.control.cluster_cache.run_key import RunKey

#: How many objects that could not be read to remember (LRU), so that each is logged once.
UNREADABLE = 10_000

_log = structlog.get_logger(__name__)


class UnreadableObjects:
    """The newest objects of which a version could not be read."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def has(self, key: RunKey, uid: str) -> bool:
        """Whether a version of a run's object was left out because the version could not be read."""
        return _identity(*key, uid) in self._known

    def add(self, kind: str, obj: Mapping[str, Any], error: BaseException) -> None:
        """Note that an object could not be read. Never raises, whatever the object is."""
        metadata = obj.get("metadata") if isinstance(obj, Mapping) else None
        namespace, name, uid = (
            str(metadata.get(field))[:253] if isinstance(metadata, Mapping) else ""
            for field in ("namespace", "name", "uid")
        )
        identity = _identity(kind, namespace, name, uid)
        if identity not in self._known:
            remember(self._known, identity, most=UNREADABLE)
            _log.error(
                "object cannot be read, and is left out",
                kind=kind,
                namespace=namespace,
                name=name,
                error=f"{type(error).__name__}: {error}",
            )


def _identity(kind: str, namespace: str, name: str, uid: str) -> str:
    return f"{kind}/{namespace}/{name}/{uid}"
