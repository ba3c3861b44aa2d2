"""Moments of many tasks, of which only the earliest are looked at."""

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.domain.clock import at

from perdure.domain.alarms import Alarms
from perdure.domain.records import TaskKey

KEYS = st.integers(0, 6).map(lambda index: TaskKey("a", index))


def test_each_task_counts_once() -> None:
    alarms = Alarms()
    moments = {TaskKey("a", index): at(10 - index) for index in range(3)}
    for key, moment in moments.items():
        alarms.set(key, at(0))
        alarms.set(key, moment)
    assert len(alarms) == 3
    assert alarms.due(at(9), moments.__getitem__) == [TaskKey("a", 2), TaskKey("a", 1)]
    assert alarms.due(at(9), moments.__getitem__) == [TaskKey("a", 2), TaskKey("a", 1)], "they stay"
    assert alarms.next(moments.__getitem__) == at(8)
    assert alarms.next(moments.__getitem__, without={TaskKey("a", 2)}) == at(9)
    alarms.discard(TaskKey("a", 2))
    assert alarms.next(moments.__getitem__) == at(9)


def test_signs_of_life_cost_nothing_until_their_turn_comes() -> None:
    """Ten thousand agents that give signs of life must not be looked at in every pass."""
    alarms, asked = Alarms(), 0
    moments = {TaskKey("a", index): at(60 + index % 7) for index in range(10_000)}
    for key, moment in moments.items():
        alarms.set(key, moment)

    def exact(key: TaskKey) -> datetime:
        nonlocal asked
        asked += 1
        return moments[key]

    for second in range(50):
        moments = {key: at(60 + second) for key in moments}
        assert alarms.due(at(second), exact) == []
    assert asked == 0
    assert alarms.next(exact) == at(109)
    assert alarms.next(exact) == at(109)
    assert asked <= len(moments) + 2, "each that has moved is looked at once"


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 100)),
        st.tuples(st.just("later"), KEYS, st.integers(0, 30)),
        st.tuples(st.just("discard"), KEYS, st.just(0)),
        st.tuples(st.just("due"), KEYS, st.integers(0, 100)),
        st.tuples(st.just("next"), KEYS, st.just(0)),
    ),
    max_size=200,
)


@given(CHANGES)
def test_it_is_as_if_all_were_looked_at(changes: list[tuple[str, TaskKey, int]]) -> None:
    alarms = Alarms()
    seconds: dict[TaskKey, int] = {}

    def exact(key: TaskKey) -> datetime:
        return at(seconds[key])

    for change, key, number in changes:
        if change == "set":
            seconds[key] = number
            alarms.set(key, at(number))
        elif change == "later" and key in seconds:
            seconds[key] += number
        elif change == "discard":
            seconds.pop(key, None)
            alarms.discard(key)
        elif change == "due":
            due = [other for other, second in seconds.items() if second <= number]
            assert sorted(alarms.due(at(number), exact)) == sorted(due)
        elif change == "next":
            others = [second for other, second in seconds.items() if other != key]
            wanted = at(min(others)) if others else None
            assert alarms.next(exact, without={key}) == wanted
    assert len(alarms) == len(seconds)
