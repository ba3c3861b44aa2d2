"""What a run may keep in the cluster, and what is deleted of it, when."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import pytest
from tests.fakes.clock import run as on_virtual_time
from tests.unit.control.lives import Live
from tests.unit.control.loop_fixture import executors
from tests.unit.control.objects import obj, owner, pod, task, workflow
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import FATAL, SUCCESS

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import POD, Store
from perdure.control.runs import cleanup
from perdure.control.runs.cleanup import AT_ONCE, BATCH, LINGER, Cleanup, due, excess_tasks
from perdure.domain.engine.observed import Observed
from perdure.domain.phases import Phase
from perdure.domain.records import AGENT_TASK, WORKFLOW, Deposed, Report, TaskKey, TaskRecord
from perdure.kube.errors import ApiError

A = TaskKey("a")
RUN = RunKey(WORKFLOW, "team", "audit")
Policy = Literal["Always", "OnFailure", "Never"]


def cleanup_of(store: Store, kube: Any) -> Cleanup:
    return Cleanup(store=store, kube=kube, executors=executors(store=store, kube=kube))


class Deletions:
    """The API server, as far as it deletes. What is in `refused` stays."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.made: list[tuple[str, str, str | None]] = []
        self.refused: set[str] = set()

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> None:
        assert uid, "never without saying which"
        if name in self.refused:
            raise ApiError(403, "Forbidden", "no")
        self.made.append((kind, name, uid))

    def names(self) -> list[str]:
        return [name for _, name, _ in self.made]


class CleanupFixture:
    """A run with its objects."""

    def __init__(self, *steps: dict[str, Any], **fields: Any) -> None:
        self.run = Live(*steps, **fields)
        self.live = self.run.live
        self.store = Store()
        self.kube = Deletions(self.store)
        self.cleanup = cleanup_of(self.store, self.kube)
        self.version = 10
        self.store.apply(WORKFLOW, workflow(1, uid=self.live.uid))

    def add_tasks(self) -> None:
        for record in self.run.tasks.values():
            if record.name not in self.store.of(RUN).tasks:
                self.version += 1
                self.store.apply(AGENT_TASK, task(record.name, self.version))

    def add_pod(self, key: TaskKey, phase: str = "Running", *, attempt: int | None = None) -> str:
        number = attempt or self.run.tasks[key].attempt
        name = f"{self.run.tasks[key].name}-{number}"
        self.version += 1
        self.store.apply(POD, pod(name, self.version, phase=phase))
        self.live.objects.index(self.run.attempts.values())
        self.live.objects.cleanup_candidates.add(name)
        return name

    def tidy(self, *, now: Any = START) -> float | None:
        return on_virtual_time(self.cleanup.tidy(self.live, now))

    def end_tasks(self, report: Report, *keys: TaskKey) -> None:
        self.run.settle(Observed(reports=dict.fromkeys(keys, (1, report))))

    def kept(self) -> int:
        return len(self.store.of(RUN).tasks)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of ten kept tasks, which shows the same as one of a thousand."""
    monkeypatch.setattr(cleanup, "MAX_ENDED_TASKS", 10)


# --- which task is deleted first


def ended(index: int, phase: Phase, second: int) -> TaskRecord:
    return TaskRecord(key=TaskKey("a", index), name=f"t{index}", phase=phase, finished_at=at(second))


def test_the_oldest_that_succeeded_go_first_and_failed_ones_last() -> None:
    tasks = [
        ended(0, Phase.FAILED, 1),
        ended(1, Phase.SUCCEEDED, 9),
        ended(2, Phase.CANCELLED, 2),
        ended(3, Phase.SUCCEEDED, 3),
        ended(4, Phase.FAILED, 0),
        ended(5, Phase.SUCCEEDED, 3),
    ]
    order = [task.key.index for task in excess_tasks(tasks, excess=99)]
    assert order == [3, 5, 1, 2, 4, 0]
    assert excess_tasks(tasks, excess=-3) == []


def test_only_succeeded_tasks_are_deleted_beyond_the_excess() -> None:
    tasks = [ended(index, Phase.FAILED if index % 2 else Phase.SUCCEEDED, index) for index in range(10)]
    assert [task.key.index for task in excess_tasks(tasks, excess=1)] == [0, 2, 4, 6, 8]
    assert [task.key.index for task in excess_tasks(tasks, excess=7)] == [0, 2, 4, 6, 8, 1, 3]
    tasks = [ended(index, Phase.SUCCEEDED, index) for index in range(10 * BATCH)]
    assert len(excess_tasks(tasks, excess=3)) == BATCH + 3


# --- when a pod is deleted


@pytest.mark.parametrize(
    ("policy", "outcome", "deleted"),
    [
        ("Always", SUCCESS, False),
        ("Always", FATAL, False),
        ("OnFailure", SUCCESS, True),
        ("OnFailure", FATAL, False),
        ("Never", SUCCESS, True),
        ("Never", FATAL, True),
    ],
)
def test_the_policy_decides_which_ended_pods_are_deleted(
    policy: Policy, outcome: Report, deleted: bool
) -> None:
    """Ruling 27."""
    place = CleanupFixture({"name": "a"}, retention={"pods": policy})
    name = place.add_pod(A)
    assert place.tidy() is None and not place.kube.made, "it runs"
    place.end_tasks(outcome, A)
    place.add_pod(A, "Succeeded")
    assert place.tidy() is None
    assert place.kube.made == ([(POD, name, f"uid-{name}")] if deleted else [])
    assert not place.live.objects.cleanup_candidates
    assert place.tidy() is None and len(place.kube.made) == deleted, "once"


@pytest.mark.parametrize(("policy", "deleted"), [("Always", False), ("OnFailure", False), ("Never", True)])
def test_the_pod_of_an_earlier_attempt_did_not_succeed(policy: Policy, deleted: bool) -> None:
    place = CleanupFixture({"name": "a", "retry": {"limit": 1}}, retention={"pods": policy})
    place.run.exited(A, code=1)
    place.run.settle(now=at(60))
    assert place.run.tasks[A].attempt == 2
    first = place.add_pod(A, "Failed", attempt=1)
    place.add_pod(A)
    place.tidy(now=at(60))
    assert place.kube.names() == ([first] if deleted else [])


@pytest.mark.parametrize("outcome", [SUCCESS, FATAL])
def test_an_agent_that_reported_has_time_to_leave(outcome: Report) -> None:
    place = CleanupFixture({"name": "a"})
    place.end_tasks(outcome, A)
    name = place.add_pod(A)
    assert place.tidy(now=at(10)) == LINGER.total_seconds() - 10
    assert not place.kube.made
    assert place.tidy(now=START + LINGER) is None
    assert place.kube.names() == [name]


def test_a_superseded_pod_is_deleted_at_once_unless_its_deletion_has_begun() -> None:
    place = CleanupFixture({"name": "a"})
    place.run.gone(A)
    first = place.add_pod(A, attempt=1)
    place.add_pod(A)
    assert place.tidy() is None
    assert place.kube.names() == [first]
    going = pod(first, 99)
    going["metadata"]["deletionTimestamp"] = "2024-05-01T12:00:30Z"
    place.store.apply(POD, going)
    place.live.objects.cleanup_candidates.add(first)
    assert place.tidy() is None and len(place.kube.made) == 1


def test_a_jobs_pod_is_deleted_with_its_job() -> None:
    place = CleanupFixture({"name": "a"}, retention={"pods": "Never"})
    place.end_tasks(SUCCESS, A)
    name = f"{place.run.tasks[A].name}-1"
    made = pod(f"{name}-x7k2p", 50, phase="Succeeded")
    made["metadata"]["labels"]["perdure.dev/attempt"] = "1"
    made["metadata"]["ownerReferences"] = [owner("Job", name, group="batch/v1")]
    place.store.apply(POD, made)
    place.live.objects.index(place.run.attempts.values())
    place.live.objects.cleanup_candidates.add(name)
    place.tidy()
    assert place.kube.made == [("Job", name, f"uid-{name}")]


def test_a_pod_of_nobodys_task_is_left_alone() -> None:
    place = CleanupFixture({"name": "a"}, retention={"pods": "Never"})
    place.store.apply(POD, pod("stranger-1", 50, phase="Succeeded"))
    place.live.objects.cleanup_candidates.add("stranger-1")
    assert place.tidy() is None
    assert not place.kube.made and not place.live.objects.cleanup_candidates


def test_due_by_table() -> None:
    live = Live({"name": "a"})
    facts = live.pod(A)
    attempt = live.view.attempts[A]
    assert due("Never", attempt, facts, 1, START) is None, "open"
    assert due("Never", None, facts, 1, START) is None, "unknown"
    closed = replace(attempt, closed_at=START, outcome=Phase.CANCELLED)
    assert due("Always", closed, facts, 1, at(5)) == START, "cancelled, and still running"
    assert due("Always", closed, replace(facts, deletion=at(9)), 1, at(5)) is None, "its deletion has begun"
    assert due("OnFailure", closed, replace(facts, phase="Failed"), 1, at(5)) is None


def test_many_pods_go_in_several_passes() -> None:
    count = AT_ONCE + 5
    place = CleanupFixture({"name": "a", "forEach": list(range(count))}, retention={"pods": "Never"})
    keys = list(place.run.open)
    place.end_tasks(SUCCESS, *keys)
    names = [place.add_pod(key, "Succeeded") for key in keys]
    assert place.tidy() == 0.0
    assert len(place.kube.made) == AT_ONCE
    assert place.tidy() is None
    assert sorted(place.kube.names()) == sorted(names)


# --- how many tasks are kept


def wide(count: int) -> CleanupFixture:
    place = CleanupFixture({"name": "a", "forEach": list(range(count))}, {"name": "b"})
    place.add_tasks()
    return place


def test_up_to_the_limit_all_are_kept() -> None:
    place = wide(20)
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(10)))
    assert place.tidy() is None
    assert not place.kube.made


def test_beyond_the_limit_the_oldest_go_and_what_runs_stays() -> None:
    place = wide(20)
    names = {key: record.name for key, record in place.run.tasks.items()}
    place.live.published.written_status = {
        (AGENT_TASK, name): {"phase": "Running"} for name in names.values()
    }
    place.live.published.mark_dirty(names, at(0))
    place.end_tasks(FATAL, TaskKey("a", 0))
    # A fatal failure stops nothing that runs.
    for index in range(1, 12):
        place.run.now = at(index)
        place.end_tasks(SUCCESS, TaskKey("a", index))
    assert place.tidy() is None
    gone = [names[TaskKey("a", index)] for index in range(1, 12)]
    assert place.kube.made == [(AGENT_TASK, name, f"uid-{name}") for name in gone]
    left = place.store.of(RUN).tasks
    assert names[TaskKey("a", 0)] in left, "failed ones are kept longest"
    assert all(names[TaskKey("a", index)] in left for index in range(12, 20)) and names[TaskKey("b")] in left
    # Nothing is written about them any more.
    assert not {(AGENT_TASK, name) for name in gone} & place.live.published.written_status.keys()
    assert not {TaskKey("a", index) for index in range(1, 12)} & place.live.published.dirty.keys()


def test_the_limit_holds_at_every_moment_of_a_long_run() -> None:
    count = 120
    place = wide(count)
    for index in range(count):
        place.run.now = at(index)
        place.end_tasks(SUCCESS, TaskKey("a", index))
        assert place.tidy() is None
        assert place.kept() - len(place.run.view.live) <= 10
    assert len(set(place.kube.names())) == len(place.kube.made), "each once"


def test_an_end_of_many_at_once_takes_several_passes() -> None:
    count = 3 * AT_ONCE
    place = wide(count)
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(count)))
    passes = 1
    while place.tidy() == 0.0:
        passes += 1
        assert len(place.kube.made) <= passes * AT_ONCE
    assert passes == 3
    assert place.kept() - len(place.run.view.live) <= 10


def test_a_task_whose_agent_still_leaves_is_not_deleted_with_its_pod() -> None:
    place = wide(20)
    leaving = [TaskKey("a", index) for index in range(5)]
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(20)))
    names = {place.run.tasks[key].name for key in leaving}
    for key in leaving:
        place.add_pod(key)
    place.tidy()
    assert place.kube.made and not names & set(place.kube.names())


def test_after_a_restart_it_is_found_again() -> None:
    place = wide(40)
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(40)))
    place.tidy()
    place.cleanup = cleanup_of(place.store, place.kube)
    while place.tidy() is not None:
        pass
    assert place.kept() - len(place.run.view.live) <= 10
    assert len(set(place.kube.names())) == len(place.kube.made)


def test_objects_that_the_store_learns_of_late_count_too() -> None:
    """A relist may add objects whose events the watch had missed."""
    place = CleanupFixture({"name": "a", "forEach": list(range(40))}, {"name": "b"})
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(40)))
    assert place.tidy() is None
    place.add_tasks()
    while place.tidy() is not None:
        pass
    assert place.kept() - len(place.run.view.live) <= 10


def test_tasks_without_objects_are_not_counted_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    place = CleanupFixture({"name": "a", "forEach": list(range(40))}, {"name": "b"})
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(40)))
    counted = 0
    count = Cleanup._ended_objects

    def counting(*arguments: Any) -> Any:
        nonlocal counted
        counted += 1
        return count(*arguments)

    monkeypatch.setattr(Cleanup, "_ended_objects", counting)
    for _ in range(5):
        assert place.tidy() is None
    assert counted == 1


def test_child_workflows_count_as_well_once_they_have_finished() -> None:
    place = CleanupFixture(
        {"name": "a", "forEach": list(range(15)), "workflow": {"templateRef": "t", "inputs": {}}},
        {"name": "b"},
    )
    for index in range(15):
        place.run.made(TaskKey("a", index))
        key = TaskKey("a", index)
        attempt = replace(place.run.view.attempts[key], closed_at=START, outcome=Phase.SUCCEEDED)
        place.run.view.attempts[key] = attempt
        place.run.view._put(replace(place.run.view.tasks[key], phase=Phase.SUCCEEDED, finished_at=at(index)))
        phase = "Running" if index == 0 else "Succeeded"
        child = workflow(100 + index, name=attempt.pod_name, uid=attempt.pod_uid, phase=phase)
        child["metadata"]["ownerReferences"] = [owner("Workflow", "audit")]
        place.store.apply(WORKFLOW, child)
    place.tidy()
    names = [place.run.view.attempts[TaskKey("a", index)].pod_name for index in range(15)]
    assert {kind for kind, _, _ in place.kube.made} == {WORKFLOW}
    assert len(place.kube.made) >= 5
    assert place.kube.names() == names[1 : 1 + len(place.kube.made)]


# --- what is refused


def test_a_refused_deletion_is_retried_later_and_blocks_no_other() -> None:
    place = wide(20)
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(20)))
    place.end_tasks(SUCCESS, TaskKey("b"))
    assert place.run.phase is Phase.SUCCEEDED
    assert place.cleanup.behind(place.live), "its last status waits"
    first = place.run.tasks[TaskKey("a", 0)].name
    place.kube.refused = {record.name for record in place.run.tasks.values()}
    assert place.tidy() == 5.0
    assert not place.cleanup.behind(place.live), "but not for what cannot be done"
    assert place.tidy(now=at(1)) == 4.0
    assert not place.kube.made
    place.kube.refused.clear()
    assert place.tidy(now=at(5)) is None
    assert first in place.kube.names()
    assert not place.cleanup.behind(place.live)


def test_a_deposed_leader_learns_that_it_is_one() -> None:
    place = wide(20)
    place.end_tasks(SUCCESS, *(TaskKey("a", index) for index in range(20)))

    async def deposed(*_: Any, **__: Any) -> None:
        raise Deposed("another leads")

    place.kube.delete = deposed  # type: ignore[method-assign]
    with pytest.raises(Deposed):
        place.tidy()


# --- after the end


def finish(place: CleanupFixture, *, phase: str = "Succeeded") -> None:
    place.version += 1
    place.store.apply(WORKFLOW, workflow(place.version, uid=place.live.uid, phase=phase))


def clean_finished(place: CleanupFixture, seconds: float) -> float | None:
    return on_virtual_time(place.cleanup.clean_finished(RUN, START + timedelta(seconds=seconds)))


@pytest.mark.parametrize(("policy", "deleted"), [("Always", False), ("OnFailure", True), ("Never", True)])
def test_the_policy_applies_to_a_pod_that_ends_after_its_run(policy: Policy, deleted: bool) -> None:
    place = CleanupFixture({"name": "a"}, retention={"pods": policy})
    place.end_tasks(SUCCESS, A)
    name = place.add_pod(A)
    assert place.tidy() == 30.0
    finish(place)
    place.cleanup.forget(RUN, place.live.uid)  # the run is no longer in memory
    assert clean_finished(place, 1) == 30.0
    place.add_pod(A, "Succeeded")  # of which the store keeps nothing
    assert name not in place.store.of(RUN).pods
    assert clean_finished(place, 2) is None
    assert place.kube.made == ([(POD, name, f"uid-{name}")] if deleted else [])
    assert clean_finished(place, 3) is None and len(place.kube.made) == deleted
    assert RUN not in place.store.children


def test_a_pod_that_fails_after_its_run_stays_on_failure() -> None:
    place = CleanupFixture({"name": "a"}, retention={"pods": "OnFailure"})
    place.end_tasks(FATAL, A)
    place.add_pod(A)
    assert place.tidy() == 30.0
    finish(place, phase="Failed")
    place.add_pod(A, "Failed")
    assert clean_finished(place, 2) is None
    assert not place.kube.made


def unkept(name: str, version: int, phase: str) -> dict[str, Any]:
    made = pod(name, version, phase=phase)
    return {**made, "metadata": {**made["metadata"], "annotations": {"perdure.dev/retention": "Never"}}}


def test_an_ended_pod_of_a_finished_run_is_kept_in_mind_until_it_is_decided_upon() -> None:
    store = Store()
    store.apply(WORKFLOW, workflow(1, phase="Succeeded"))
    assert store.apply(POD, pod("audit-b-1", 2, phase="Succeeded")) == RUN
    assert RUN not in store.children, "a pod that stays is of no interest"
    assert store.apply(POD, unkept("audit-a-1", 3, "Succeeded")) == RUN
    assert store.has_undecided_pods(RUN) and store.finished_with_pods() == [RUN]
    store.decide_pods(RUN)
    assert not store.has_undecided_pods(RUN)
    store.release(RUN)
    # A relist brings the pod again, and there is nothing more to do about it.
    store.apply(POD, unkept("audit-a-1", 3, "Succeeded"))
    assert not store.has_undecided_pods(RUN) and not store.finished_with_pods()
    # Another run of the same name has pods of its own.
    store.apply(WORKFLOW, workflow(4, uid="another", phase="Succeeded"))
    store.apply(POD, unkept("audit-a-1", 5, "Succeeded"))
    assert store.has_undecided_pods(RUN)


def test_a_pod_that_still_runs_is_decided_upon_when_it_has_ended() -> None:
    store = Store()
    store.apply(WORKFLOW, workflow(1, phase="Succeeded"))
    store.apply(POD, unkept("audit-a-1", 2, "Running"))
    assert not store.has_undecided_pods(RUN)
    store.apply(POD, unkept("audit-a-1", 3, "Succeeded"))
    assert store.has_undecided_pods(RUN)


def test_a_pod_that_does_not_end_after_its_run_is_deleted() -> None:
    place = CleanupFixture({"name": "a"})
    place.end_tasks(SUCCESS, A)
    name = place.add_pod(A)
    finish(place)
    assert clean_finished(place, 0) == 30.0
    assert clean_finished(place, 29) == 1.0
    assert not place.kube.made
    assert clean_finished(place, 30) is None
    assert place.kube.names() == [name]


def test_nothing_is_left_of_what_is_known_of_a_finished_run() -> None:
    place = CleanupFixture({"name": "a"})
    place.add_tasks()
    place.end_tasks(SUCCESS, A)
    finish(place)
    assert clean_finished(place, 0) is None
    assert RUN not in place.store.children and not place.kube.made


def test_a_standalone_tasks_pod() -> None:
    place = CleanupFixture(name="alone", retention={"pods": "Never"})
    key = TaskKey("")
    alone = RunKey(AGENT_TASK, "team", "alone")
    place.store.apply(AGENT_TASK, obj("alone", 5, uid=place.live.uid, spec={}))
    place.end_tasks(SUCCESS, key)
    made = obj("alone-1", 7, labels={"perdure.dev/task": "alone", "perdure.dev/attempt": "1"})
    place.store.apply(POD, made | {"status": {"phase": "Succeeded"}})
    place.live.objects.index(place.run.attempts.values())
    assert place.live.key == alone
    place.tidy()
    assert place.kube.made == [(POD, "alone-1", "uid-alone-1")]
