"""The check at the end of the tier must be able to fail."""

from __future__ import annotations

from tests.cluster.installation import Installation
from tests.cluster.leftovers import Belongings, Machine


def test_a_live_cluster_is_detected(perdure: Installation) -> None:
    found = Belongings.of(perdure.cluster).left(Machine.now())
    for kind in ("process ", "interface ", "control group "):
        assert any(entry.startswith(kind) for entry in found), found
