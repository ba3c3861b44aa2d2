"""What a command line of the benchmarks means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from tests.bench.__main__ import SCENARIOS as REAL
from tests.bench.figures import Result
from tests.bench.rig import Rig
from tests.bench.scenario import Planned, Scenario, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    chains: int = 200
    steps: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    kills: int = 100
    steps: int = 5


async def run(rig: Rig, size: Any, result: Result) -> None:
    raise AssertionError("only the command line is read")


def scenario(name: str, full: Any, small: Any) -> Scenario:
    return Scenario(name=name, title="", full=full, small=small, run=run, seconds=lambda size: size.steps)


SCENARIOS = {
    "B1": scenario("B1", Chains(), Chains(chains=2, steps=3)),
    "B2": scenario("B2", Kills(), Kills(kills=1, steps=2)),
}


def planned(*arguments: str) -> list[Planned]:
    return parse(arguments, SCENARIOS, description="")


def test_every_benchmark_runs_as_defined_without_names() -> None:
    assert [(each.scenario.name, each.size, each.full) for each in planned()] == [
        ("B1", Chains(), True),
        ("B2", Kills(), True),
    ]


def test_small_sizes_can_be_changed_one_by_one() -> None:
    (each,) = planned("B1", "--small", "--chains", "7")
    assert each.size == Chains(chains=7, steps=3)
    assert not each.full


def test_a_size_is_given_to_every_benchmark_that_has_it() -> None:
    assert [each.size for each in planned("--steps", "20")] == [Chains(steps=20), Kills(steps=20)]
    assert [each.full for each in planned("--steps", "20")] == [True, True]
    assert [each.full for each in planned("--steps", "6")] == [False, True]


def test_the_announced_time_follows_the_size() -> None:
    assert [each.seconds for each in planned("--small")] == [3, 2]


@pytest.mark.parametrize("arguments", [("B9",), ("B1", "--kills", "3"), ("B1", "--chains", "many")])
def test_an_unknown_argument_is_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        planned(*arguments)
    assert left.value.code == 2
    assert "python -m tests.bench" in capsys.readouterr().err


@pytest.mark.parametrize("name", REAL)
def test_every_benchmark_has_a_small_size_that_takes_less(name: str) -> None:
    found = REAL[name]
    assert type(found.small) is type(found.full)
    assert 0 < found.seconds(found.small) < found.seconds(found.full)
    assert Planned(found, found.full).full
    assert not Planned(found, found.small).full


def test_every_defined_benchmark_exists() -> None:
    numbers = [number for number in range(15) if number != 12]
    assert list(REAL) == [*(f"B{number}" for number in numbers), "growth"]
