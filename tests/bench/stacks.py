"""The shares of packages and functions in a sampled profile."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = re.compile(r":\d+\)$")
_PLACE = re.compile(r"\(([^()]*)\)$")
#: A stack that ends with one of these waits for work.
_IDLE = (".select (selectors.py)", "_worker (concurrent/futures/thread.py)")


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the time in which it did something, from 0 to 1, the largest first."""

    #: By package; a stack belongs to the innermost one of those that were named.
    packages: dict[str, float]
    #: By function with everything that it called.
    functions: dict[str, float]


def shares(lines: Iterable[str], *, packages: tuple[str, ...]) -> Shares:
    """From collapsed stacks, `frame;frame;frame count`, outermost first. What is in no package is `rest`."""
    total = 0
    by_package: Counter[str] = Counter()
    by_function: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.strip().rpartition(" ")
        frames = [_LINE.sub(")", frame) for frame in stack.split(";")]
        if not stack or frames[-1].endswith(_IDLE):
            continue
        total += int(count)
        by_package[_package(frames, packages)] += int(count)
        for frame in set(frames):
            by_function[frame] += int(count)
    return Shares(_shares(by_package, total), _shares(by_function, total))


def _package(frames: list[str], packages: tuple[str, ...]) -> str:
    for frame in reversed(frames):
        place = _PLACE.search(frame)
        if place is None:
            continue
        name, within, _ = place[1].partition("/")
        # Every stack begins with the program and its command line.
        if within and name in packages and not place[1].startswith("perdure/cli/"):
            return "/".join(place[1].split("/")[:2]) if name == "perdure" else name
    return "rest"


def _shares(counts: Counter[str], total: int) -> dict[str, float]:
    return {name: count / total for name, count in counts.most_common()}
