"""The heap of times by task: the earliest, and those that are due, compared with a plain scan."""

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.domain.clock import at

from perdure.domain.engine.lazy_heap import LazyHeap
from perdure.domain.records import TaskKey

keys = st.builds(TaskKey, st.just("a"), st.integers(0, 4))
times = st.integers(0, 5).map(at)
changes = st.lists(st.tuples(keys, st.none() | times), max_size=300)


@given(changes, st.sets(keys), times)
def test_what_is_due_and_what_comes_first(
    made: list[tuple[TaskKey, object]], skip: set[TaskKey], now: object
) -> None:
    moments: LazyHeap[TaskKey, datetime] = LazyHeap()
    expected: dict[TaskKey, object] = {}
    for key, moment in made:
        moments.put(key, moment)  # type: ignore[arg-type]
        if moment is None:
            expected.pop(key, None)
        else:
            expected[key] = moment
        assert moments.ranks == expected
        for _ in range(2):  # reading changes nothing
            assert moments.first_rank() == min(expected.values(), default=None)  # type: ignore[type-var]
    for _ in range(2):
        due = moments.due(now)  # type: ignore[arg-type]
        assert len(due) == len(set(due))
        assert set(due) == {key for key, moment in expected.items() if moment <= now}  # type: ignore[operator]
        left = [moment for key, moment in expected.items() if key not in skip]
        assert moments.first_rank(skip) == min(left, default=None)  # type: ignore[type-var]


def test_a_time_that_changes_over_and_over_leaves_no_heap_behind() -> None:
    moments: LazyHeap[TaskKey, datetime] = LazyHeap()
    for second in range(10_000):
        moments.put(TaskKey("a"), at(second))
    assert len(moments._heap) < 200
    assert moments.first_rank() == at(9999)
