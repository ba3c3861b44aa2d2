"""A profile, folded."""

from __future__ import annotations

import pytest
from tests.bench.stacks import shares

#: With which every stack of the operator begins.
_OUTER = "<module> (perdure:8);main (perdure/cli/main.py:3);run (asyncio/base_events.py:9)"
STACKS = f"""\
{_OUTER};worker (kopf/core.py:5);loads (json/x.py:1) 3
{_OUTER};decide (perdure/domain/engine/decide.py:7) 4
{_OUTER};decide (perdure/domain/engine/decide.py:8) 2
{_OUTER} 1
{_OUTER};EpollSelector.select (selectors.py:4) 90
_worker (concurrent/futures/thread.py:81) 90

"""


def test_only_samples_of_running_code_are_counted() -> None:
    found = shares(STACKS.splitlines(), packages=("perdure", "kopf"))
    assert found.packages == pytest.approx({"perdure/domain": 0.6, "kopf": 0.3, "rest": 0.1})


def test_a_function_has_what_it_called_whatever_its_line() -> None:
    found = shares(STACKS.splitlines(), packages=()).functions
    assert found["decide (perdure/domain/engine/decide.py)"] == pytest.approx(0.6)
    assert found["run (asyncio/base_events.py)"] == pytest.approx(1.0)
    assert not any("select" in name for name in found)


def test_the_largest_shares_come_first() -> None:
    found = list(shares(STACKS.splitlines(), packages=("perdure", "kopf")).packages.values())
    assert found == sorted(found, reverse=True)


def test_an_empty_profile_has_no_shares() -> None:
    assert shares([""], packages=()).functions == {}
