"""Which events are still missing in a stream, and in which order they go there."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from perdure.bus.publisher import lanes_by_run
from perdure.bus.refill import Tally
from perdure.domain.records import Event


def event(uid: str, sequence: int) -> Event:
    return Event(
        workflow_uid=uid,
        namespace="team-a",
        workflow="audit",
        kind="Workflow",
        sequence=sequence,
        type="task.progress",
        time=datetime(2026, 3, 1, tzinfo=UTC),
        data={},
    )


def tally(*ids: str, discarded: bool = False) -> dict[str, int]:
    counted = Tally(discarded=discarded)
    for message_id in ids:
        counted.add(message_id)
    return counted.present


def test_events_count_up_to_the_first_gap() -> None:
    assert tally("a/1", "b/1", "a/2", "a/4", "b/2", "a/5") == {"a": 2, "b": 2}


def test_a_beginning_that_is_missing_is_to_be_filled() -> None:
    assert tally("a/57", "a/58") == {}


def test_a_beginning_that_was_discarded_is_not() -> None:
    assert tally("a/57", "a/58", "b/3", discarded=True) == {"a": 58, "b": 3}


def test_repeated_and_foreign_messages_count_for_nothing() -> None:
    assert tally("a/1", "a/1", "", "a/", "/3", "a/x", "a/-2", "a/2", "a/1") == {"a": 2}


@given(st.integers(0, 20), st.integers(0, 20), st.randoms(use_true_random=False))
def test_what_follows_the_tally_completes_the_run(length: int, lost: int, chance: object) -> None:
    kept = [number for number in range(1, length + 1) if number != lost]
    present = tally(*(f"a/{number}" for number in kept)).get("a", 0)
    missing = range(present + 1, length + 1)
    assert sorted({*kept, *missing}) == list(range(1, length + 1))
    assert set(range(1, present + 1)) <= set(kept)


@given(st.permutations([("a", 1), ("a", 2), ("a", 3), ("b", 7), ("b", 8), ("c", 1)]))
def test_lanes_keep_each_run_in_order(rows: list[tuple[str, int]]) -> None:
    lanes = lanes_by_run([event(uid, sequence) for uid, sequence in rows])
    assert {uid: [item.sequence for item in lane] for uid, lane in lanes.items()} == {
        "a": [1, 2, 3],
        "b": [7, 8],
        "c": [1],
    }
    assert next(iter(lanes)) == rows[0][0]


def test_a_foreign_id_with_thousands_of_digits_counts_for_nothing() -> None:
    tally = Tally(discarded=True)
    tally.add(f"run/{'9' * 5000}")
    tally.add("run/7")
    assert (tally.present, tally.seen) == ({"run": 7}, 2)
