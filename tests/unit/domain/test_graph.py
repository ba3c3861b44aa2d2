"""Orders respect dependencies, and cycles that are reported are real."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.graph import Cycle, topological_order

Graph = dict[str, frozenset[str]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph of named steps, cyclic ones and loops among them."""
    names = draw(st.lists(st.sampled_from([f"s{number}" for number in range(12)]), unique=True, min_size=1))
    return {name: draw(st.frozensets(st.sampled_from(names), max_size=3)) for name in names}


@st.composite
def acyclic_graphs(draw: st.DrawFn) -> Graph:
    number = draw(st.integers(0, 15))
    names = draw(st.permutations([f"s{position}" for position in range(number)]))
    graph = {
        name: draw(st.frozensets(st.sampled_from(names[:position]), max_size=4)) if position else frozenset()
        for position, name in enumerate(names)
    }
    return {name: graph[name] for name in draw(st.permutations(names))}


@given(acyclic_graphs())
def test_every_step_comes_once_and_after_all_it_depends_on(graph: Graph) -> None:
    order = topological_order(graph)
    assert sorted(order) == sorted(graph)
    position = {name: number for number, name in enumerate(order)}
    assert all(position[needed] < position[name] for name in graph for needed in graph[name])


@given(acyclic_graphs())
def test_the_order_is_the_first_in_the_manifests_order(graph: Graph) -> None:
    """At each place stands the first step of the manifest that could stand there."""
    names = list(graph)
    done: set[str] = set()
    for name in topological_order(graph):
        assert name == next(other for other in names if other not in done and graph[other] <= done)
        done.add(name)


@given(acyclic_graphs(), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_sets(graph: Graph, chance: random.Random) -> None:
    shuffled: dict[str, frozenset[str]] = {}
    for name, needed in graph.items():
        members = list(needed)
        chance.shuffle(members)
        shuffled[name] = frozenset(members)
    assert topological_order(shuffled) == topological_order(graph)


@given(graphs())
def test_a_cycle_is_reported_exactly_if_there_is_one_and_is_real(graph: Graph) -> None:
    cycle = _cycle_of(graph)
    if cycle is None:
        position = {name: number for number, name in enumerate(topological_order(graph))}
        assert all(position[needed] < position[name] for name in graph for needed in graph[name])
        return
    steps = cycle.steps
    assert len(set(steps)) == len(steps) >= 1
    for step, needed in zip(steps, (*steps[1:], steps[0]), strict=True):
        assert needed in graph[step]
    assert str(cycle) == " -> ".join((*steps, steps[0]))


def _cycle_of(graph: Graph) -> Cycle | None:
    try:
        topological_order(graph)
    except Cycle as cycle:
        return cycle
    return None


@pytest.mark.parametrize(
    ("graph", "steps"),
    [
        ({"a": {"a"}}, ("a",)),
        ({"a": {"b"}, "b": {"a"}}, ("a", "b")),
        # Steps that only wait for the cycle are not part of it.
        ({"before": set(), "a": {"b", "before"}, "b": {"c"}, "c": {"a"}, "after": {"a"}}, ("a", "b", "c")),
    ],
)
def test_cycles(graph: dict[str, set[str]], steps: tuple[str, ...]) -> None:
    with pytest.raises(Cycle) as raised:
        topological_order(graph)
    assert raised.value.steps == steps


def test_a_long_chain_needs_no_stack() -> None:
    names = [f"s{number}" for number in range(5000)]
    graph = {
        name: frozenset(names[number - 1 : number] if number else []) for number, name in enumerate(names)
    }
    assert topological_order(graph) == tuple(names)
    assert topological_order({}) == ()
