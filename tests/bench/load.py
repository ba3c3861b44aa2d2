"""The load: what is applied, and applying it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from perdure.api import API_VERSION
from perdure.kube.client import KubeClient
from tests.bench import simulation

#: Applied at once.
CONNECTIONS = 16
#: More CPUs than any simulated node has: a pod that asks for them waits for ever.
_NEVER = "1000000"


def chain(name: str, *, steps: int) -> dict[str, Any]:
    """A Workflow of steps one after the other; each pod ends as soon as it runs."""
    names = [f"s{number:02d}" for number in range(1, steps + 1)]
    return workflow(
        name,
        [
            {"name": step, **({"dependsOn": [names[position - 1]]} if position else {})}
            for position, step in enumerate(names)
        ],
    )


def slow_chain(name: str, *, steps: int, how: str) -> dict[str, Any]:
    """The chain with pods that do what `how` says to the simulated nodes: `hang`, `0.5s`, `fail-once`."""
    made = chain(name, steps=steps)
    made["spec"]["defaults"]["agent"]["podTemplate"] = simulation.template(how)
    return made


def waiting_steps(name: str, *, steps: int) -> dict[str, Any]:
    """A Workflow of steps whose pods exist and never start, so that their attempts stay open."""
    agent = {"resources": {"requests": {"cpu": _NEVER}}}
    return workflow(name, [{"name": f"s{number:02d}", "agent": agent} for number in range(1, steps + 1)])


async def apply_all(kube: KubeClient, namespace: str, manifests: Sequence[dict[str, Any]]) -> None:
    """Create them all, some at once. Raises ApiError."""
    waiting = list(reversed(manifests))

    async def work() -> None:
        while waiting:
            await kube.create("Workflow", namespace, waiting.pop())

    async with asyncio.TaskGroup() as group:
        for _ in range(min(CONNECTIONS, len(manifests))):
            group.create_task(work())


def patience(steps: int) -> float:
    """Seconds after which so many steps are not going to come any more. No measure of speed."""
    return 120 + steps / 2


def workflow(name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """A Workflow of these steps, whose pods end as soon as they run unless they say otherwise."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {"defaults": {"agent": {"image": "bench/instant:1"}}, "steps": steps},
    }
