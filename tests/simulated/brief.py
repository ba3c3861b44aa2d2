"""What an API server answers to who asks for a brief answer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def brief_of(obj: Mapping[str, Any]) -> dict[str, Any]:
    """An object's metadata, as a PartialObjectMetadata."""
    return {
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": copy.deepcopy(obj["metadata"]),
    }
