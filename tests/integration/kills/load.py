"""Chains of steps whose pods take their time, so that there is work whenever an operator comes back."""

from __future__ import annotations

import random
from typing import Any

from perdure.api import API_VERSION
from tests.bench.simulation import template


def slow_chain(name: str, *, steps: int, mean: float, chance: random.Random) -> dict[str, Any]:
    """A Workflow of steps one after the other; each pod runs for up to twice `mean` seconds."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {
            "defaults": {"agent": {"image": "kills/slow:1"}},
            "steps": [
                {
                    "name": f"s{number:02d}",
                    "agent": {"podTemplate": template(_seconds(mean, chance))},
                    **({"dependsOn": [f"s{number - 1:02d}"]} if number > 1 else {}),
                }
                for number in range(1, steps + 1)
            ],
        },
    }


def _seconds(mean: float, chance: random.Random) -> str:
    return f"{chance.uniform(0, 2 * mean):.2f}s"
