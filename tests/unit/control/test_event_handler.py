"""Which events enqueue a run, and how soon, on a virtual clock."""

import asyncio
from typing import Any

import pytest
from tests.fakes.clock import run
from tests.unit.control.objects import AUDIT, filled, obj, owner, pod, workflow

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import AGENT_TEMPLATE, POD
from perdure.control.event_handler import LONGEST_START_DEBOUNCE, START_DEBOUNCE, EventHandler
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


class HandlerFixture:
    """An event handler with its queue; the run waits for a template."""

    def __init__(self, *, leads: bool = True, shown_in: float = 0.0) -> None:
        self.queue = WorkQueue()
        self.handle = EventHandler(
            store=filled(),
            queue=self.queue,
            is_reconciling=lambda: leads,
            note_template=lambda namespace, name: [AUDIT] if (namespace, name) == ("team", "auditor") else [],
            shown_in=lambda key: shown_in,
        )


def enqueued(
    *events: tuple[str, dict[str, Any], bool], leads: bool = True, shown_in: float = 0.0
) -> list[tuple[RunKey, float]]:
    """The runs that workers get within a minute, each with the seconds until then."""
    found: list[tuple[RunKey, float]] = []

    async def scenario() -> None:
        fixture = HandlerFixture(leads=leads, shown_in=shown_in)
        for event in events:
            fixture.handle(*event)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(60):
                while True:
                    key = await fixture.queue.get()
                    fixture.queue.done(key)
                    found.append((key, round(asyncio.get_running_loop().time() - began, 3)))
        except TimeoutError:
            pass

    run(scenario())
    return found


@pytest.mark.parametrize("made", [RUNS, PULLS], ids=["running", "image missing"])
def test_events_of_a_pod_without_a_consequence_are_debounced(made: dict[str, Any]) -> None:
    assert enqueued((POD, made, False)) == [(AUDIT, START_DEBOUNCE)]


@pytest.mark.parametrize(
    ("shown_in", "after"),
    [(-3.0, START_DEBOUNCE), (0.5, START_DEBOUNCE), (3.0, 3.0), (9.0, LONGEST_START_DEBOUNCE)],
)
def test_a_debounced_event_waits_for_the_next_status_and_at_most_five_seconds(
    shown_in: float, after: float
) -> None:
    assert enqueued((POD, RUNS, False), shown_in=shown_in) == [(AUDIT, after)]


@pytest.mark.parametrize("made", [ENDED, LEAVES], ids=["ended", "being deleted"])
def test_a_pod_that_ends_enqueues_its_run_at_once(made: dict[str, Any]) -> None:
    assert enqueued((POD, made, False)) == [(AUDIT, 0)]


def test_a_deleted_pod_enqueues_its_run_at_once() -> None:
    assert enqueued((POD, LATER, True)) == [(AUDIT, 0)]


def test_the_pod_of_a_job_enqueues_its_run_at_once() -> None:
    assert enqueued((POD, of_job(), False)) == [(AUDIT, 0)]


def test_the_end_of_a_pod_replaces_the_debounced_start() -> None:
    ended = {**ENDED, "metadata": {**ENDED["metadata"], "resourceVersion": "5"}}
    assert enqueued((POD, RUNS, False), (POD, ended, False)) == [(AUDIT, 0)]


def test_a_new_run_is_enqueued_at_once() -> None:
    made = workflow(7, name="other")
    assert enqueued((WORKFLOW, made, False)) == [(RunKey("Workflow", "team", "other"), 0)]


def test_a_template_enqueues_the_runs_that_wait_for_it() -> None:
    assert enqueued((AGENT_TEMPLATE, obj("auditor", 9, spec={}), False)) == [(AUDIT, 0)]
    assert enqueued((AGENT_TEMPLATE, obj("another", 9, spec={}), False)) == []


def test_a_process_that_does_not_lead_enqueues_nothing() -> None:
    assert enqueued((POD, ENDED, False), leads=False) == []


def test_an_event_of_a_known_version_enqueues_nothing() -> None:
    assert enqueued((POD, pod("audit-a-1", 4), False)) == []


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("odd", [{}, {"metadata": None}, {"metadata": {"name": "a"}}, {**RUNS, "status": []}])
def test_an_event_that_cannot_be_read_ends_no_watch(odd: dict[str, Any], deleted: bool) -> None:
    assert AUDIT in [key for key, _ in enqueued((POD, odd, deleted), (POD, ENDED, False))]
