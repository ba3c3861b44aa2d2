"""The graph of steps: its order, and whether it has one."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Set


class Cycle(Exception):
    """Steps that wait for each other. `steps` goes round once: a depends on b depends on … depends on a."""

    def __init__(self, steps: tuple[str, ...]) -> None:
        super().__init__(" -> ".join((*steps, steps[0])))
        self.steps = steps


def topological_order(dependencies: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """Names so ordered that each comes after all it depends on; among equals, in the mapping's order.

    Kahn's algorithm with a heap. Every name that is depended on must be a key. Raises Cycle.
    """
    names = list(dependencies)
    position = {name: index for index, name in enumerate(names)}
    waiting = {name: len(needed) for name, needed in dependencies.items()}
    dependents: dict[str, list[str]] = {name: [] for name in names}
    for name, needed in dependencies.items():
        for dependency in needed:
            dependents[dependency].append(name)
    ready = [position[name] for name in names if not waiting[name]]
    order: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for dependent in dependents[name]:
            waiting[dependent] -= 1
            if not waiting[dependent]:
                heapq.heappush(ready, position[dependent])
    if len(order) < len(names):
        raise Cycle(_find_cycle({name: dependencies[name] for name in names if waiting[name]}))
    return tuple(order)


def _find_cycle(dependencies: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """A cycle among steps each of which still waits for another of them."""
    name = next(iter(dependencies))
    path: list[str] = []
    seen: dict[str, int] = {}
    while name not in seen:
        seen[name] = len(path)
        path.append(name)
        name = min(needed for needed in dependencies[name] if needed in dependencies)
    return tuple(path[seen[name] :])
