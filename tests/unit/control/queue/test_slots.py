"""Shared limits: whose turn it is, case by case."""

from datetime import UTC, datetime, timedelta

import pytest

from perdure.control.queue.slots import SPARE, Slots

#: More attempts than any run is granted.
MANY = 1000


def age(number: int) -> datetime:
    """When a run was made: a smaller number is an older run."""
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)


class Installation:
    """Runs with queued tasks. Each is reconciled whenever it is woken, one after the other."""

    def __init__(self, total: int | None = None, per_namespace: int | None = None) -> None:
        self.slots = Slots(total, per_namespace)
        self.runs: dict[str, tuple[str, int, int]] = {}
        self.backlog: dict[str, int] = {}
        self.open: dict[str, int] = {}
        #: Runs in the order in which their attempts were started.
        self.started: list[str] = []

    def add(
        self, uid: str, backlog: int, *, namespace: str = "team", priority: int = 0, open: int = 0
    ) -> None:
        self.runs[uid] = namespace, priority, len(self.runs)
        self.backlog[uid] = backlog
        self.open[uid] = open
        self.slots.hold(uid, namespace, open)

    def reconcile(self, *uids: str) -> None:
        """One pass for each of these runs, and one for each run that a pass wakes."""
        queue = list(uids)
        while queue:
            queue += self.pass_over(queue.pop(0))

    def pass_over(self, uid: str) -> list[str]:
        namespace, priority, order = self.runs[uid]
        granted = self.slots.grant(uid, namespace, priority, age(order))
        assert granted is not None
        starts = min(granted, self.backlog[uid])
        self.started += [uid] * starts
        self.open[uid] += starts
        self.backlog[uid] -= starts
        return self.slots.settle(uid, self.open[uid], self.backlog[uid])

    def end(self, uid: str, number: int = 1) -> None:
        """Attempts of a run end, one pass for each."""
        for _ in range(number):
            self.open[uid] -= 1
            self.reconcile(uid)


@pytest.mark.parametrize("none", [None, 0])
def test_without_limits_there_is_nothing_to_ask_for(none: int | None) -> None:
    slots = Slots(none, none)
    assert not slots.bounded
    slots.hold("a", "team", 5)
    assert slots.grant("a", "team", 0, age(0)) is None
    assert slots.settle("a", 5, MANY) == []
    assert slots.forget("a") == []


def test_a_run_alone_has_all_there_is() -> None:
    at = Installation(total=20)
    at.add("a", MANY)
    at.reconcile("a")
    assert at.open["a"] == 20


def test_a_first_decision_is_granted_the_spare_slots_alone() -> None:
    slots = Slots(100, None)
    assert slots.grant("a", "team", 0, age(0)) == SPARE
    assert slots.grant("b", "team", 0, age(1)) == SPARE


def test_what_a_pass_does_not_use_is_free_again() -> None:
    slots = Slots(2, None)
    assert slots.grant("a", "team", 0, age(0)) == 2
    assert slots.grant("b", "team", 0, age(1)) == 0
    assert slots.settle("a", 1, 0) == [], "b is being reconciled"
    assert slots.settle("b", 0, 1) == ["b"]
    assert slots.grant("b", "team", 0, age(1)) == 1


def test_passes_at_once_never_have_the_same_slot() -> None:
    slots = Slots(10, None)
    granted = [slots.grant(uid, "team", 0, age(0)) or 0 for uid in "abcd"]
    assert sum(granted) == 10


def test_a_second_decision_in_a_pass_has_what_the_first_left() -> None:
    slots = Slots(5, None)
    assert slots.grant("a", "team", 0, age(0)) == 5
    slots.hold("a", "team", 3)
    assert slots.grant("a", "team", 0, age(0)) == 2
    slots.hold("a", "team", 4)
    assert slots.grant("a", "team", 0, age(0)) == 1
    assert slots.settle("a", 4, 0) == []
    assert slots.grant("b", "team", 0, age(1)) == 1


@pytest.mark.parametrize(("total", "per_namespace"), [(4, None), (None, 4)])
def test_what_was_open_before_counts(total: int | None, per_namespace: int | None) -> None:
    at = Installation(total=total, per_namespace=per_namespace)
    at.add("a", 0, open=3)
    at.add("b", MANY)
    at.reconcile("b")
    assert at.open["b"] == 1


def test_more_open_attempts_than_the_limit_are_tolerated() -> None:
    at = Installation(total=2)
    at.add("a", 0, open=4)
    at.add("b", MANY)
    at.reconcile("b", "a")
    at.end("a", 2)
    assert at.open["b"] == 0
    at.end("a")
    assert at.open["b"] == 1


def test_the_next_free_slot_is_the_highest_prioritys() -> None:
    at = Installation(total=3)
    at.add("backlog", MANY, priority=-5)
    at.reconcile("backlog")
    at.add("urgent", 2, priority=10)
    at.reconcile("urgent")
    at.end("backlog", 3)
    assert at.started == ["backlog"] * 3 + ["urgent"] * 2 + ["backlog"]


def test_a_slot_freed_during_the_urgent_runs_pass_goes_to_the_urgent_run() -> None:
    at = Installation(total=1)
    at.add("backlog", MANY)
    at.reconcile("backlog")
    assert at.slots.grant("urgent", "team", 10, age(9)) == 0
    assert at.slots.settle("backlog", 0, MANY) == []
    assert at.slots.settle("urgent", 0, 1) == ["urgent"]


def test_a_namespace_at_its_limit_holds_up_no_other() -> None:
    at = Installation(total=10, per_namespace=2)
    at.add("urgent", MANY, namespace="full", priority=10)
    at.add("other", MANY, namespace="other")
    at.reconcile("urgent", "other")
    assert at.open == {"urgent": 2, "other": 2}
    at.end("other")
    assert at.open == {"urgent": 2, "other": 2}
    at.end("urgent")
    assert at.open == {"urgent": 2, "other": 2}


def test_equals_take_turns_by_namespace_and_then_by_run() -> None:
    at = Installation(total=1)
    at.add("holder", 0, namespace="else", open=1)
    for uid in ("a1", "a2", "b1"):
        at.add(uid, MANY, namespace=uid[0])
        at.reconcile(uid)
    at.end("holder")
    for _ in range(7):
        at.end(at.started[-1])
    assert at.started == ["a1", "b1", "a2", "b1", "a1", "b1", "a2", "b1"]


def test_of_those_never_served_the_older_is_first() -> None:
    at = Installation(total=1)
    at.add("holder", 0, namespace="else", open=1)
    for uid in ("old", "new", "newest"):
        at.add(uid, MANY)
    at.reconcile("newest", "new", "old")
    at.end("holder")
    for _ in range(3):
        at.end(at.started[-1])
    assert at.started == ["old", "new", "newest", "old"]


def test_a_stream_of_new_runs_does_not_starve_an_old_one() -> None:
    at = Installation(total=1)
    at.add("old", MANY)
    at.reconcile("old")
    for number in range(20):
        at.add(f"new-{number}", 1)
        at.reconcile(f"new-{number}")
        at.end(at.started[-1])
        at.end(at.started[-1])
    assert at.started[::2] == ["old"] * 21, "of any two turns one is its own"


def test_a_run_that_wants_one_at_a_time_does_not_starve_its_equals() -> None:
    """It wants nothing while its task runs, and something again the moment the task has ended."""
    at = Installation(total=1)
    at.add("chain", 1, namespace="a")
    at.add("backlog", MANY, namespace="b")
    at.reconcile("chain", "backlog")
    for _ in range(9):
        at.backlog["chain"] = 1
        at.end(at.started[-1])
    assert at.started == ["chain", "backlog"] * 5


def test_turns_that_were_handed_back_were_none() -> None:
    at = Installation(total=1)
    at.add("holder", 0, namespace="else", open=1)
    at.add("a", MANY, namespace="a")
    at.add("idle", 0, namespace="a")
    at.add("b", MANY, namespace="b")
    at.reconcile("a", "idle", "b")
    at.slots.grant("holder", "else", 0, age(0))
    at.slots.grant("idle", "a", 0, age(2))
    assert at.slots.settle("holder", 0, 0) == ["a"]
    at.reconcile("a")
    assert at.slots.settle("idle", 0, 0) == []
    at.end("a")
    at.slots.grant("idle", "a", 0, age(2))
    at.end("b")
    assert at.slots.settle("idle", 0, 0) == ["a"], "the turn of its namespace is still its namespace's"


def test_a_start_counts_as_a_turn_though_another_attempt_has_ended_in_the_same_pass() -> None:
    at = Installation(total=2)
    at.add("holder", 0, namespace="else", open=1)
    at.add("a", MANY, namespace="a", open=1)
    at.add("b", MANY, namespace="b")
    at.slots.grant("b", "b", 0, age(2))
    at.slots.settle("b", 0, 0)
    at.slots.grant("a", "a", 0, age(1))
    at.slots.settle("a", 1, 5)
    assert at.slots.forget("holder") == ["a"]
    assert at.slots.grant("b", "b", 0, age(2)) == 0
    assert at.slots.settle("b", 0, 5) == []
    assert at.slots.grant("a", "a", 0, age(1)) == 1
    assert at.slots.settle("a", 1, 5) == ["b"], "one ended, and one started"


def test_the_newest_turn_counts_whichever_pass_ends_first() -> None:
    at = Installation(total=3)
    at.add("holder", 0, namespace="else", open=3)
    for uid in ("a1", "b1", "a2"):
        at.add(uid, MANY, namespace=uid[0])
        at.reconcile(uid)
    assert at.slots.forget("holder") == ["a1", "b1", "a2"]
    at.reconcile("a2", "b1", "a1")
    at.end("a1")
    assert at.started == ["a2", "b1", "a1", "b1"]


def test_a_deleted_run_leaves_its_slots_to_others() -> None:
    at = Installation(total=3)
    at.add("a", MANY)
    at.reconcile("a")
    at.add("b", 2)
    at.reconcile("b")
    assert at.slots.forget("a") == ["b"]
    at.reconcile("b")
    assert at.open["b"] == 2
    assert at.slots.forget("never-seen") == []


def test_a_run_may_be_forgotten_in_the_middle_of_its_pass() -> None:
    slots = Slots(2, None)
    assert slots.grant("a", "team", 0, age(0)) == 2
    assert slots.grant("b", "team", 0, age(1)) == 0
    assert slots.forget("a") == []
    assert slots.settle("a", 0, 0) == []
    assert slots.settle("b", 0, 5) == ["b"]
    assert slots.grant("b", "team", 0, age(1)) == 2


def test_a_pass_that_fails_keeps_nothing_from_others() -> None:
    slots = Slots(1, None)
    assert slots.grant("broken", "team", 5, age(0)) == 1
    assert slots.grant("other", "team", 0, age(1)) == 0
    assert slots.settle("other", 0, 1) == []
    assert slots.settle("broken", 0, 0) == ["other"]


def test_clear_forgets_everything() -> None:
    slots = Slots(1, None)
    assert slots.grant("a", "team", 0, age(0)) == 1
    slots.clear()
    assert slots.grant("b", "team", 0, age(0)) == 1
