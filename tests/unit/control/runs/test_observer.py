"""The facts that a pass observes, and those that the next pass observes again."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NoReturn

import pytest
from tests.fakes.clock import run as on_virtual_time
from tests.unit.control.lives import Live
from tests.unit.control.loop_fixture import NAMESPACE, ControlLoopFixture, executors, played
from tests.unit.control.objects import pod, workflow
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS

from perdure.control.cluster_cache.store import POD, Store
from perdure.control.runs.observer import Observer
from perdure.domain.engine.decide import Decision, decide
from perdure.domain.engine.observed import ChildRun, Observed
from perdure.domain.engine.outcome import LOST_AFTER
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import WORKFLOW, RunRecord, RunUpdates, Signal, TaskKey, VersionConflict, Vitals

A = TaskKey("a")
CHILD: dict[str, Any] = {"name": "a", "workflow": {"templateRef": "audits"}}
RUNNING = {"running": {"startedAt": "2024-05-01T12:00:00Z"}}
#: Longer than a watch event takes.
A_WHILE = 1.0


class QuietLedger:
    """A ledger of which no agent has written anything, but for the given `updates`."""

    def __init__(self, live: Live, updates: RunUpdates | None = None) -> None:
        self._live = live
        self._updates = updates

    async def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        return self._updates or RunUpdates(version=self._live.run.version, reports={}, vitals=())


class NoServer:
    """An API server to which any request fails the test."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"asked to {name}")


def observer_of(store: Store, ledger: Any) -> Observer:
    acting = executors(store=store, kube=NoServer(), ledger=ledger)
    return Observer(store=store, ledger=ledger, executors=acting)


def reconciled(live: Live, observer: Observer) -> Decision:
    """One pass: observe and decide."""
    observed = on_virtual_time(observer.observe(live.live, live.now))
    return live.decide(observed)


def dying(live: Live, version: int, **status: Any) -> dict[str, Any]:
    name = live.view.attempts[A].pod_name
    seen = pod(name, version)
    seen["metadata"]["deletionTimestamp"] = "2024-05-01T12:00:30Z"
    running = {"name": "agent", "state": {"running": {"startedAt": "2024-05-01T12:00:00Z"}}}
    seen["status"] = {"phase": "Running", "containerStatuses": [running]} | status
    return seen


def test_a_pod_whose_node_never_confirms_its_deletion_is_given_up_in_time() -> None:
    """No event comes from a lost node: time alone must be enough, whatever other passes come between."""
    live, store = Live({"name": "a"}), Store()
    observer = observer_of(store, QuietLedger(live))
    live.live.objects.index(live.attempts.values())
    reconciled(live, observer)
    store.apply(POD, dying(live, 1))
    due = reconciled(live, observer).requeue_at
    assert due is not None and due >= at(30) + LOST_AFTER
    # A pass for another cause, in which nothing about this pod is new.
    live.now = at(10)
    assert reconciled(live, observer).requeue_at == due
    live.now = due
    reconciled(live, observer)
    assert (live.tasks[A].disruptions, live.tasks[A].attempt) == (1, 2)
    assert reconciled(live, observer).requeue_at is None, "the new attempt's pod is not being deleted"


def test_a_report_is_observed_without_reading_the_run_again() -> None:
    """A report raises the run's version. The updates have all reports, so the decision is on that version."""
    live = Live({"name": "a"})
    seen = live.run.version
    updates = RunUpdates(version=seen + 1, reports={A: (1, SUCCESS)}, vitals=())
    observer = observer_of(Store(), QuietLedger(live, updates))
    observed = on_virtual_time(observer.observe(live.live, live.now))
    commit = decide(live.view, observed, live.now).commit
    assert commit is not None
    assert (commit.run.version, commit.run.phase) == (seen + 1, Phase.SUCCEEDED)


def test_signals_are_observed_until_a_decision_consumes_them() -> None:
    """Also by a step that starts later: the ledger is not asked again for what it has answered."""
    live = Live({"name": "a"})
    first, second = (
        Signal(id=id, key=A, name="answer", payload=id, sender="ada", at=live.now) for id in ("1", "2")
    )
    ledger = QuietLedger(live, RunUpdates(version=4, reports={}, signals={A: (first, second)}, vitals=()))
    observer = observer_of(Store(), ledger)
    assert on_virtual_time(observer.observe(live.live, live.now)).signals == {A: (first, second)}
    ledger._updates = None
    assert on_virtual_time(observer.observe(live.live, live.now)).signals == {A: (first, second)}

    live.live.updates.drop_consumed(["1"])
    assert on_virtual_time(observer.observe(live.live, live.now)).signals == {A: (second,)}
    live.live.updates.drop_consumed(["2"])
    assert on_virtual_time(observer.observe(live.live, live.now)).signals == {}


def test_a_ledger_that_is_behind_what_was_seen_is_not_believed() -> None:
    live = Live({"name": "a"})
    updates = RunUpdates(version=live.run.version - 1, reports={}, vitals=())
    observer = observer_of(Store(), QuietLedger(live, updates))
    with pytest.raises(VersionConflict):
        on_virtual_time(observer.observe(live.live, live.now))


def test_a_pod_of_the_attempts_name_with_another_owner_is_not_observed() -> None:
    """The pod of a deleted AgentTask of the same name: the end of that pod ends no attempt of this one."""
    live = Live()
    name = live.view.attempts[TaskKey("")].pod_name
    store = Store()
    other = pod(name, 1)
    other["metadata"] |= {
        "labels": {"perdure.dev/task": "alone", "perdure.dev/attempt": "1"},
        "ownerReferences": [{"kind": "AgentTask", "uid": "another", "controller": True}],
    }
    store.apply(POD, other)
    observer = observer_of(store, QuietLedger(live))
    observed = on_virtual_time(observer.observe(live.live, live.now))
    assert (observed.pods, observed.gone) == ({}, frozenset())


# --- what time alone ends


async def running(stage: ControlLoopFixture) -> None:
    """The agent runs, and a decision knows."""
    await stage.ensure()
    stage.set_pod(stage.attempt().pod_name, RUNNING)
    await asyncio.sleep(A_WHILE)
    await stage.step()
    assert stage.history.tasks[A].phase is Phase.RUNNING
    stage.cluster.calls.clear()
    stage.ledger.asked.clear()


def test_before_a_timeout_the_truth_is_asked_for() -> None:
    """The agent ended in time, and every event of that was lost."""

    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "timeout": "60s"})
        await running(stage)
        stage.receives_events = False
        ended = {"terminated": {"exitCode": 0, "startedAt": "2024-05-01T12:00:00Z", "message": "in time"}}
        stage.set_pod(stage.attempt().pod_name, ended, "Succeeded")
        stage.history.now = at(30)
        await stage.step()
        assert (stage.cluster.calls, stage.ledger.asked) == ([], []), "there is time left"
        stage.history.now = at(62)
        await stage.step()
        assert stage.cluster.calls == [("get", "Pod")]
        assert stage.ledger.asked == ["updates"]
        assert (stage.history.phase, stage.history.tasks[A].output) == (Phase.SUCCEEDED, "in time")

    played(scenario())


def test_a_report_without_a_notification_comes_before_a_timeout() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "timeout": "60s"})
        await running(stage)
        stage.ledger.reports = {A: (1, SUCCESS)}
        stage.history.now = at(62)
        await stage.step()
        assert stage.history.phase is Phase.SUCCEEDED

    played(scenario())


def test_a_start_without_a_watch_event_comes_before_a_pending_timeout() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "pendingTimeout": "60s"})
        await stage.ensure()
        await asyncio.sleep(A_WHILE)
        stage.receives_events = False
        stage.set_pod(stage.attempt().pod_name, RUNNING)
        stage.history.now = at(60)
        await stage.step()
        assert stage.history.tasks[A].phase is Phase.RUNNING

    played(scenario())


def test_time_that_is_over_ends_an_attempt() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "timeout": "60s"})
        await running(stage)
        stage.history.now = at(62)
        await stage.step()
        assert (stage.history.tasks[A].phase, stage.history.tasks[A].reason) == (Phase.FAILED, Reason.TIMEOUT)

    played(scenario())


def test_signs_of_life_are_read_before_a_silence_is_believed() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "idleTimeout": "60s"})
        await running(stage)
        stage.ledger.vitals = (Vitals(key=A, attempt=1, changed_at=at(50)),)
        stage.history.now = at(62)
        await stage.step()
        assert stage.ledger.asked == ["updates"]
        assert stage.history.tasks[A].phase is Phase.RUNNING
        assert (await stage.observe()).signs == {A: (1, at(50))}
        stage.ledger.asked.clear()
        stage.history.now = at(100)
        await stage.step()
        assert stage.ledger.asked == [], "what was read counts until its own time is over"
        stage.history.now = at(111)
        await stage.step()
        assert (stage.ledger.asked, stage.history.tasks[A].reason) == (["updates"], Reason.IDLE_TIMEOUT)

    played(scenario())


def test_a_sign_that_came_to_light_late_is_read_before_a_silence_is_believed() -> None:
    """Its write was slow: by then a newer one of another agent had been read."""

    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "idleTimeout": "60s"}, {"name": "b"})
        await running(stage)
        stage.ledger.vitals = (Vitals(key=TaskKey("b"), attempt=1, changed_at=at(30)),)
        stage.live.agenda.ask_ledger = True
        await stage.step()
        assert stage.live.updates.vitals_since == at(30)
        stage.ledger.vitals += (Vitals(key=A, attempt=1, changed_at=at(29)),)
        stage.history.now = at(62)
        await stage.step()
        assert stage.history.tasks[A].phase is Phase.RUNNING
        stage.history.now = at(89)
        await stage.step()
        assert stage.history.tasks[A].reason is Reason.IDLE_TIMEOUT

    played(scenario())


@pytest.mark.parametrize("limit", ["timeout", "idleTimeout"])
def test_a_start_that_is_observed_after_its_timeout_gets_a_second_pass_before_it_counts(
    limit: str,
) -> None:
    """The ledger was not asked for the agent's signs of life: the agent was not known to run."""

    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", limit: "60s"})
        await stage.ensure()
        stage.set_pod(stage.attempt().pod_name, RUNNING)
        stage.ledger.vitals = (Vitals(key=A, attempt=1, changed_at=at(99)),)
        stage.history.now = at(100)
        await asyncio.sleep(A_WHILE)
        decision = await stage.step()
        assert stage.history.tasks[A].phase is Phase.RUNNING
        assert decision.requeue_at is not None and decision.requeue_at <= stage.history.now
        await stage.step()
        assert stage.history.tasks[A].phase is (Phase.FAILED if limit == "timeout" else Phase.RUNNING)

    played(scenario())


def test_a_timeout_that_passed_during_the_observation_does_not_count_yet() -> None:
    """The decision came long after the observation, which does not have what the agent did meanwhile."""

    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "idleTimeout": "60s"})
        await running(stage)
        stage.history.now = at(58)
        observed = await stage.observe()
        stage.history.now = at(70)
        assert stage.history.decide(observed).requeue_at == at(60)
        assert stage.history.tasks[A].phase is Phase.RUNNING
        await stage.step()
        assert stage.history.tasks[A].reason is Reason.IDLE_TIMEOUT

    played(scenario())


def test_no_time_is_over_in_a_pause() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a", "timeout": "60s"})
        await running(stage)
        stage.history.settle(Observed(desired="Paused"))
        stage.history.now = at(1000)
        await stage.observe()
        assert (stage.cluster.calls, stage.ledger.asked) == ([], [])

    played(scenario())


# --- children


def child_run(stage: ControlLoopFixture, **changes: Any) -> RunRecord:
    """The child as the ledger has it."""
    uid = stage.attempt().pod_uid
    assert uid is not None
    return replace(stage.history.run, uid=uid, name=stage.attempt().pod_name, **changes)


def test_a_childs_end_is_read_from_the_ledger() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(CHILD)
        await stage.ensure()
        await asyncio.sleep(A_WHILE)
        assert (await stage.observe()).children == {}, "the ledger does not know it yet, and it exists"
        stage.ledger.asked.clear()
        await stage.observe()
        assert stage.ledger.asked == [], "no notification has reported a change"
        run = child_run(stage, phase=Phase.SUCCEEDED, outputs=payload_of({"n": 1}), started_at=at(1))
        stage.ledger.runs[run.uid] = run
        stage.live.agenda.ask_children = True
        observed = await stage.observe()
        assert observed.children == {
            A: ChildRun(uid=run.uid, phase=Phase.SUCCEEDED, outputs=payload_of({"n": 1}), started_at=at(1))
        }
        stage.history.decide(observed)
        assert (stage.history.phase, stage.history.tasks[A].output) == (Phase.SUCCEEDED, {"n": 1})

    played(scenario())


def test_a_child_that_was_deleted_before_its_admission_is_gone() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(CHILD)
        await stage.ensure()
        stage.remove(WORKFLOW, stage.attempt().pod_name)
        await asyncio.sleep(A_WHILE)
        observed = await stage.observe()
        assert observed.gone == {A}
        stage.history.decide(observed)
        assert (stage.history.tasks[A].phase, stage.history.tasks[A].reason) == (
            Phase.FAILED,
            Reason.CHILD_FAILED,
        )

    played(scenario())


def test_a_later_workflow_of_the_same_name_is_not_taken_for_the_child() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(CHILD)
        await stage.ensure()
        name = stage.attempt().pod_name
        stage.remove(WORKFLOW, name)
        stage.cluster.add(WORKFLOW, NAMESPACE, workflow(name=name))
        await asyncio.sleep(A_WHILE)
        assert (await stage.observe()).gone == {A}

    played(scenario())


def test_a_deleted_child_that_the_ledger_knows_ended_as_the_ledger_says() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture(CHILD)
        await stage.ensure()
        run = child_run(stage, phase=Phase.CANCELLED, reason=Reason.DELETED)
        stage.ledger.runs[run.uid] = run
        stage.remove(WORKFLOW, stage.attempt().pod_name)
        await asyncio.sleep(A_WHILE)
        observed = await stage.observe()
        assert (observed.gone, observed.children[A].reason) == (frozenset(), Reason.DELETED)

    played(scenario())


def test_a_childs_time_is_over_only_if_the_ledger_agrees() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({**CHILD, "timeout": "60s"})
        await stage.ensure()
        run = child_run(stage, phase=Phase.RUNNING, started_at=at(0))
        stage.ledger.runs[run.uid] = run
        await stage.step()
        assert stage.history.tasks[A].phase is Phase.RUNNING
        stage.ledger.runs[run.uid] = replace(run, phase=Phase.SUCCEEDED, outputs=payload_of({}))
        stage.history.now = at(60) + timedelta(seconds=1)
        await stage.step()
        assert stage.history.phase is Phase.SUCCEEDED

    played(scenario())
