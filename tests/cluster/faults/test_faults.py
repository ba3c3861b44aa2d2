"""After every fault: the same outputs, nothing run twice, no gap in the history, no pod left over."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.faults.journal import Journal
from tests.cluster.faults.stage import Stage, until_ready
from tests.cluster.faults.table import DISRUPTED, RETRIED, VICTIM, Cost, Fault, chosen
from tests.cluster.faults.workload import COUNT, ITEMS, fan_out, outputs
from tests.cluster.installation import DEADLINE, Installation, Object
from tests.cluster.runs import Event, Run, data, of_type
from tests.cluster.waiting import until

ROUNDS = int(os.environ.get("REPEAT", "1"))
#: Seconds for a run, whatever happens to it on a busy machine.
RUN_DEADLINE = DEADLINE + 5.0 * ITEMS
#: A Lease that ends soon, so that a frozen leader delays the test little.
_LEASE = ("operator.lease.duration=4", "operator.lease.renewDeadline=3", "operator.lease.retry=0.5")


@pytest.fixture(scope="module")
def replicas(perdure: Installation) -> Iterator[list[int]]:
    """How many operators there are; one again afterwards."""
    there = [1]
    yield there
    if there != [1]:
        _scale(perdure, 1)


def _scale(perdure: Installation, count: int) -> None:
    perdure.upgrade(f"operator.replicas={count}", *_LEASE)
    until_ready(perdure, "operator", count)


@pytest.fixture
def stage(perdure: Installation, namespace: str) -> Stage:
    folder = perdure.cluster.state_dir / "node" / "journals" / namespace
    return Stage(perdure, namespace, Journal.make(folder))


@pytest.mark.parametrize("round", range(1, ROUNDS + 1))
@pytest.mark.parametrize("fault", chosen(), ids=lambda fault: fault.name)
def test_a_fault_costs_what_the_table_says(
    perdure: Installation, stage: Stage, replicas: list[int], fault: Fault, round: int
) -> None:
    if replicas != [fault.replicas]:
        _scale(perdure, fault.replicas)
        replicas[:] = [fault.replicas]
    holds = {VICTIM: fault.hold} if fault.hold else {}
    # The name distinguishes the pods from those of earlier runs, which must not be drained along with them.
    manifest = fan_out(f"{fault.name}-{round}", journal=stage.journal.folder, holds=holds)
    if fault.cordoned:
        with stage.cordoned():
            stage.apply(manifest)
            fault.inject(stage)
    else:
        stage.apply(manifest)
        fault.inject(stage)
    status = stage.run.until(seconds=RUN_DEADLINE)

    assert status["outputs"] == outputs()
    assert stage.journal.repeated() == []
    # Not `done`: an agent may receive SIGTERM between the commit of a checkpoint and its line in the journal.
    ran = {(line["item"], line["number"]) for line in stage.journal.lines("ran")}
    assert len(ran) == ITEMS * COUNT
    events = stage.run.events()
    check_cost(stage.run.tasks(), events, fault.cost)
    check_checkpoints(events)
    check_pods(stage.run)
    stage.clear()


def check_cost(tasks: list[Object], events: list[Event], cost: Cost) -> None:
    """Attempts, retries, disruptions and reasons are what is documented, in statuses and in events."""
    assert len(tasks) == ITEMS + 1
    assert {task["status"]["phase"] for task in tasks} == {"Succeeded"}
    statuses = [task["status"] for task in tasks]
    retries = sum(status.get("retries", 0) for status in statuses)
    disruptions = sum(status.get("disruptions", 0) for status in statuses)
    assert retries == cost.retries
    least, most = cost.disruptions
    assert least <= disruptions <= most
    assert sum(status["attempt"] for status in statuses) == len(tasks) + retries + disruptions
    retried = [data(event)["reason"] for event in of_type(events, "task.retrying")]
    assert retried == [RETRIED] * retries
    disrupted = [data(event)["reason"] for event in of_type(events, "task.disrupted")]
    assert disrupted == [DISRUPTED] * disruptions
    for type_ in ("task.scheduled", "task.succeeded"):
        names = [event["task"] for event in of_type(events, type_)]
        attempts = retries + disruptions if type_ == "task.scheduled" else 0
        assert len(set(names)) == len(tasks)
        assert len(names) in (len(tasks), len(tasks) + attempts), (type_, names)


def check_checkpoints(events: list[Event]) -> None:
    """Numbered without a gap, and in the order of the sub-steps; one that got no answer may come again."""
    by_task: dict[str, list[Event]] = {}
    for event in of_type(events, "task.checkpointed"):
        by_task.setdefault(event["task"], []).append(event)
    assert len(by_task) == ITEMS
    for found in by_task.values():
        assert [int(data(event)["sequence"]) for event in found] == list(range(1, len(found) + 1))
        labels = [int(data(event)["label"]) for event in found]
        assert labels == sorted(labels)
        assert set(labels) == set(range(COUNT))


def check_pods(run: Run) -> None:
    """Every pod belongs to an attempt that is known, and none goes on when the run has ended."""
    tasks = {task["metadata"]["name"]: task for task in run.tasks()}

    def at_rest() -> bool:
        return all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in run.pods())

    until(at_rest, seconds=DEADLINE, what="all pods to end")
    for pod in run.pods():
        labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
        task = tasks.get(labels["perdure.dev/task"])
        assert task is not None, f"{name} belongs to no task"
        owners = {owner["uid"] for owner in pod["metadata"]["ownerReferences"]}
        assert task["metadata"]["uid"] in owners, f"{name} has another owner"
        assert int(labels["perdure.dev/attempt"]) <= task["status"]["attempt"], f"{name} is of no attempt"
