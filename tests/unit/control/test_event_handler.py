"""When a run is looked at for what is heard of the cluster, on a virtual clock."""

import asyncio
from typing import Any

import pytest
from tests.fakes.clock import run
from tests.unit.control.objects import AUDIT, filled, obj, owner, pod, workflow

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import AGENT_TEMPLATE, POD
from perdure.control.event_handler import LONGEST_START_LOOK, START_LOOK, EventHandler
from perdure.control.queue.workqueue import WorkQueue
from perdure.domain.records import WORKFLOW

LATER = pod("audit-a-1", 4, phase="Running")


def with_container(state: dict[str, Any], *, phase: str = "Running") -> dict[str, Any]:
    return {**LATER, "status": {"phase": phase, "containerStatuses": [{"name": "agent", "state": state}]}}


RUNS = with_container({"running": {"startedAt": "2024-05-01T12:00:05Z"}})
PULLS = with_container({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}, phase="Pending")
ENDED = with_container({"terminated": {"exitCode": 0, "reason": "Completed"}})
LEAVES = {
    **LATER,
    "metadata": {**LATER["metadata"], "deletionTimestamp": "2024-05-01T12:00:30Z"},
}


def of_job() -> dict[str, Any]:
    made = pod("audit-b-1-x7k2q", 4)
    labels = {**made["metadata"]["labels"], "perdure.dev/task": "audit-b", "perdure.dev/attempt": "1"}
    job = owner("Job", "audit-b-1", group="batch/v1")
    return {**made, "metadata": {**made["metadata"], "labels": labels, "ownerReferences": [job]}}


class Heard:
    """What hears, the queue behind it, and a template that a run waits for."""

    def __init__(self, *, working: bool = True, shown_in: float = 0.0) -> None:
        self.queue = WorkQueue()
        self.hear = EventHandler(
            store=filled(),
            queue=self.queue,
            is_reconciling=lambda: working,
            note_template=lambda namespace, name: [AUDIT] if (namespace, name) == ("team", "auditor") else [],
            shown_in=lambda key: shown_in,
        )


def looked_at(
    *events: tuple[str, dict[str, Any], bool], working: bool = True, shown_in: float = 0.0
) -> list[tuple[RunKey, float]]:
    """Which runs are looked at within a minute, and after how many seconds."""
    found: list[tuple[RunKey, float]] = []

    async def scenario() -> None:
        heard = Heard(working=working, shown_in=shown_in)
        for event in events:
            heard.hear(*event)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(60):
                while True:
                    key = await heard.queue.get()
                    heard.queue.done(key)
                    found.append((key, round(asyncio.get_running_loop().time() - began, 3)))
        except TimeoutError:
            pass

    run(scenario())
    return found


@pytest.mark.parametrize("made", [RUNS, PULLS], ids=["it runs", "its image is missing"])
def test_news_of_a_pod_that_call_for_nothing_wait_for_company(made: dict[str, Any]) -> None:
    assert looked_at((POD, made, False)) == [(AUDIT, START_LOOK)]


@pytest.mark.parametrize(
    ("shown_in", "after"),
    [(-3.0, START_LOOK), (0.5, START_LOOK), (3.0, 3.0), (9.0, LONGEST_START_LOOK)],
)
def test_they_wait_as_long_as_the_status_that_shows_them_but_not_longer_than_five_seconds(
    shown_in: float, after: float
) -> None:
    assert looked_at((POD, RUNS, False), shown_in=shown_in) == [(AUDIT, after)]


@pytest.mark.parametrize("made", [ENDED, LEAVES], ids=["it has ended", "it is being deleted"])
def test_what_calls_for_something_is_looked_at_at_once(made: dict[str, Any]) -> None:
    assert looked_at((POD, made, False)) == [(AUDIT, 0)]


def test_a_pod_that_is_gone_is_looked_at_at_once() -> None:
    assert looked_at((POD, LATER, True)) == [(AUDIT, 0)]


def test_a_jobs_pod_is_let_in_at_once() -> None:
    assert looked_at((POD, of_job(), False)) == [(AUDIT, 0)]


def test_an_end_takes_the_start_before_it_along() -> None:
    ended = {**ENDED, "metadata": {**ENDED["metadata"], "resourceVersion": "5"}}
    assert looked_at((POD, RUNS, False), (POD, ended, False)) == [(AUDIT, 0)]


def test_a_new_run_is_looked_at_at_once() -> None:
    made = workflow(7, name="other")
    assert looked_at((WORKFLOW, made, False)) == [(RunKey("Workflow", "team", "other"), 0)]


def test_runs_that_wait_for_a_template_are_looked_at_when_it_comes() -> None:
    assert looked_at((AGENT_TEMPLATE, obj("auditor", 9, spec={}), False)) == [(AUDIT, 0)]
    assert looked_at((AGENT_TEMPLATE, obj("another", 9, spec={}), False)) == []


def test_who_does_not_lead_listens_and_looks_at_nothing() -> None:
    assert looked_at((POD, ENDED, False), working=False) == []


def test_what_is_known_already_is_no_news() -> None:
    assert looked_at((POD, pod("audit-a-1", 4), False)) == []


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("odd", [{}, {"metadata": None}, {"metadata": {"name": "a"}}, {**RUNS, "status": []}])
def test_an_event_that_cannot_be_read_ends_no_watch(odd: dict[str, Any], deleted: bool) -> None:
    assert AUDIT in [key for key, _ in looked_at((POD, odd, deleted), (POD, ENDED, False))]
