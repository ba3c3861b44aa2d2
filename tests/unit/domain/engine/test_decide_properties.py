"""Random graphs under random observations and wishes: the rules hold, and every run comes to its end.

`runs.Run` checks each decision: made again, and made from the records as a restarted operator reads them, it
is the same; and it keeps the rules of `rules.py`. Seeds go far into a run's life; hypothesis tries small
cases, and shrinks those that fail.
"""

import os
import random
from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.domain.builders import view_of_lone_plan, view_of_plan
from tests.unit.domain.graphs import Choose, make_spec, once_in
from tests.unit.domain.runs import Run
from tests.unit.domain.worlds import World

T = TypeVar("T")
SEEDS = int(os.environ.get("SEEDS", "160"))
#: Of one test; a failure names its seed.
BATCH = 20


def run_of_graph(choose: Choose) -> Run:
    spec = make_spec(choose)
    return Run(view_of_plan(*spec.pop("steps"), **spec))


def run_of_task(choose: Choose) -> Run:
    """An AgentTask that stands alone."""
    fields = {name: "40s" for name in ("timeout", "pendingTimeout", "idleTimeout") if once_in(choose, 3)}
    return Run(view_of_lone_plan(retry={"limit": choose(range(3))}, **fields))


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_runs_keep_every_rule(first: int) -> None:
    for seed in range(first, min(first + BATCH, SEEDS)):
        try:
            World(run_of_graph(_by_seed(seed)), _by_seed(seed)).live(30)
            World(run_of_task(_by_seed(seed)), _by_seed(seed)).live(8)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def _by_seed(seed: int) -> Choose:
    chance = random.Random(seed)

    def choose(options: Sequence[T]) -> T:
        return chance.choice(options)

    return choose


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_sequence_of_events_keeps_every_rule(data: st.DataObject) -> None:
    def choose(options: Sequence[T]) -> T:
        return data.draw(st.sampled_from(options))

    World(run_of_graph(choose), choose).live(choose(range(12)))
