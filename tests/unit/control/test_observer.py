"""What is looked at in a pass, and again in the next."""

from datetime import datetime
from typing import Any, NoReturn

import pytest
from tests.simulated.clock import run as on_virtual_time
from tests.unit.control.lives import Live
from tests.unit.control.objects import pod
from tests.unit.domain.clock import at
from tests.unit.domain.runs import SUCCESS

from perdure.control.observer import Observer
from perdure.control.store import POD, Store
from perdure.domain.decide import Decision, decide
from perdure.domain.outcome import LOST_AFTER
from perdure.domain.phases import Phase
from perdure.domain.records import News, TaskKey, VersionConflict

A = TaskKey("a")


class QuietLedger:
    """What agents have written: nothing, unless told otherwise."""

    def __init__(self, live: Live, news: News | None = None) -> None:
        self._live = live
        self._news = news

    async def news(self, uid: str, *, since: datetime | None) -> News:
        return self._news or News(version=self._live.run.version, reports={}, vitals=())


class NoServer:
    """Nobody asks the API server for anything."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"asked to {name}")


def looked(live: Live, observer: Observer) -> Decision:
    """One pass: observe and decide."""
    observed = on_virtual_time(observer.observe(live.live))
    return live.decide(observed)


def dying(live: Live, version: int, **status: Any) -> dict[str, Any]:
    name = live.view.attempts[A].pod_name
    seen = pod(name, version)
    seen["metadata"]["deletionTimestamp"] = "2024-05-01T12:00:30Z"
    running = {"name": "agent", "state": {"running": {"startedAt": "2024-05-01T12:00:00Z"}}}
    seen["status"] = {"phase": "Running", "containerStatuses": [running]} | status
    return seen


def test_a_pod_whose_node_never_confirms_its_deletion_is_given_up_in_time() -> None:
    """No event comes from a lost node: time alone must be enough, whatever else is looked at meanwhile."""
    live, store = Live({"name": "a"}), Store()
    observer = Observer(store=store, kube=NoServer(), ledger=QuietLedger(live))  # type: ignore[arg-type]
    live.live.learn_pods(live.attempts.values())
    looked(live, observer)
    store.apply(POD, dying(live, 1))
    due = looked(live, observer).requeue_at
    assert due is not None and due > at(30) + LOST_AFTER
    # A pass for another cause, in which nothing about this pod is new.
    live.now = at(10)
    assert looked(live, observer).requeue_at == due
    live.now = due
    looked(live, observer)
    assert (live.tasks[A].disruptions, live.tasks[A].attempt) == (1, 2)
    assert looked(live, observer).requeue_at is None, "the new attempt's pod is not being deleted"


def test_a_report_is_taken_in_without_reading_the_run_anew() -> None:
    """A report raises the run's version. The news has all reports, so the decision is about that version."""
    live = Live({"name": "a"})
    seen = live.run.version
    news = News(version=seen + 1, reports={A: (1, SUCCESS)}, vitals=())
    observer = Observer(store=Store(), kube=NoServer(), ledger=QuietLedger(live, news))  # type: ignore[arg-type]
    observed = on_virtual_time(observer.observe(live.live))
    commit = decide(live.view, observed, live.now).commit
    assert commit is not None
    assert (commit.run.version, commit.run.phase) == (seen + 1, Phase.SUCCEEDED)


def test_a_ledger_that_is_behind_what_was_seen_is_not_believed() -> None:
    live = Live({"name": "a"})
    news = News(version=live.run.version - 1, reports={}, vitals=())
    observer = Observer(store=Store(), kube=NoServer(), ledger=QuietLedger(live, news))  # type: ignore[arg-type]
    with pytest.raises(VersionConflict):
        on_virtual_time(observer.observe(live.live))
