"""Asking the API server for an object that may not be there."""

from __future__ import annotations

from typing import Any

from perdure.control.ports import KubePort
from perdure.kube.errors import ApiError


async def find(kube: KubePort, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
    """The object; None if the API server says that there is none. Raises ApiError if it does not say."""
    try:
        return await kube.get(kind, namespace, name)
    except ApiError as error:
        if error.not_found:
            return None
        raise
