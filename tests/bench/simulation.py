"""The annotation by which a run controls the simulated nodes."""

from __future__ import annotations

from typing import Any

from hack.cluster.kwok import ANNOTATION


def template(how: str) -> dict[str, Any]:
    """A `podTemplate` for pods that do as `how` says; hack/cluster/kwok.py has the words."""
    return {"metadata": {"annotations": {ANNOTATION: how}}}
