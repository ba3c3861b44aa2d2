"""The parts of a benchmark, and the command line that selects benchmarks and their sizes.

Each has sizes of its own, with the defined ones as defaults and small ones that only show that it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from tests.bench.figures import Result
from tests.bench.rig import Rig

Run = Callable[[Rig, Any, Result], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A benchmark."""

    name: str
    title: str
    #: A frozen dataclass of whole numbers: the sizes that the definition asks for.
    full: Any
    #: A size small enough to see within a minute that the benchmark runs.
    small: Any
    #: Given the rig, sizes, and the result to fill.
    run: Run
    #: Roughly how many seconds it takes on two idle cores.
    seconds: Callable[[Any], float]
    #: A second part, measured on a rig of its own.
    then: Run | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A benchmark that is to run."""

    scenario: Scenario
    size: Any

    @property
    def full(self) -> bool:
        """Whether it is at least as large as defined."""
        defined = self.scenario.full
        return all(
            getattr(self.size, field.name) >= getattr(defined, field.name) for field in fields(defined)
        )

    @property
    def seconds(self) -> float:
        return self.scenario.seconds(self.size)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse(
    arguments: Sequence[str] | None, scenarios: Mapping[str, Scenario], *, description: str
) -> list[Planned]:
    """The benchmarks that a command line asks for. Exits with 2 if it makes no sense."""
    parser = _Parser(prog="python -m tests.bench", description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(scenarios)}")
    parser.add_argument("--small", action="store_true", help="only see that they run")
    for flag, help_ in _flags(scenarios.values()).items():
        parser.add_argument(f"--{flag}", type=int, help=help_)
    given = vars(parser.parse_args(arguments))
    names: list[str] = given.pop("names") or list(scenarios)
    small = given.pop("small")
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in names:
        if name not in scenarios:
            parser.error(f"there is no {name}; there are {', '.join(scenarios)}")
    planned = [_planned(scenarios[name], chosen, small=small) for name in names]
    known = {field.name for each in planned for field in fields(each.size)}
    if unknown := chosen.keys() - known:
        parser.error(f"{', '.join(names)}: no size {', '.join(sorted(unknown))}; there are {_listed(known)}")
    return planned


def _planned(scenario: Scenario, chosen: Mapping[str, int], *, small: bool) -> Planned:
    size = scenario.small if small else scenario.full
    mine = {field.name: chosen[field.name] for field in fields(size) if field.name in chosen}
    return Planned(scenario, replace(size, **mine))


def _flags(scenarios: Any) -> dict[str, str]:
    """Every size there is, and in whose it is found with which default."""
    defaults: dict[str, list[str]] = {}
    for scenario in scenarios:
        for field in fields(scenario.full):
            value = getattr(scenario.full, field.name)
            defaults.setdefault(field.name.replace("_", "-"), []).append(f"{scenario.name}: {value}")
    return {flag: ", ".join(values) for flag, values in defaults.items()}


def _listed(names: set[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names)) or "none"
