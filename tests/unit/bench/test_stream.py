"""The comparison of what came with what should have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.bench.stream import compare


def test_complete_events_in_order_have_no_faults() -> None:
    found = compare({"a/1", "a/2", "b/1"}, ["a/1", "b/1", "a/2"])
    assert not found.missing
    assert found.repeated == 0
    assert not found.disordered


def test_missing_repeated_and_unordered_events_are_counted_apart() -> None:
    found = compare({"a/1", "a/2", "a/10", "b/1", "b/2"}, ["a/10", "a/2", "a/2", "b/1"])
    assert found.missing == {"a/1", "b/2"}
    assert found.repeated == 1
    assert found.disordered == {"a"}


def test_a_repetition_is_not_out_of_order() -> None:
    assert compare({"a/1", "a/2"}, ["a/1", "a/2", "a/1"]).disordered == set()


@given(st.permutations([f"a/{number}" for number in range(1, 8)]))
def test_only_the_right_order_is_in_order(ids: list[str]) -> None:
    in_order = ids == sorted(ids, key=lambda id_: int(id_[2:]))
    assert (compare(set(ids), ids).disordered == set()) == in_order
