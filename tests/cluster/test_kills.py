"""`kill -9` of each process of the control plane during a run: it delays, and changes nothing."""

from __future__ import annotations

import signal
from itertools import groupby

import pytest

from tests.cluster.installation import COMPONENTS, DEADLINE, Installation
from tests.cluster.manifests import counted, counting
from tests.cluster.runs import Event, Run, data, of_type
from tests.cluster.waiting import until

COUNT = 12
#: The gate that keeps a run from ending before the kill.
GATE = 9


def restarts(perdure: Installation) -> dict[str, int]:
    """How often each component was started again."""
    return {component: perdure.restarts(component) for component in COMPONENTS}


def saved(events: list[Event], task: str) -> list[tuple[int, str]]:
    """Attempt and label of the task's checkpoints, in order, as the ledger has them."""
    found = [event for event in of_type(events, "task.checkpointed") if event["task"] == task]
    assert [int(data(event)["sequence"]) for event in found] == list(range(1, len(found) + 1))
    return [(int(event["attempt"]), data(event)["label"]) for event in found]


def check_undisturbed(run: Run, *, repeats: bool) -> list[Event]:
    """The run ended like an undisturbed one, and no agent was started twice.

    `repeats`: a checkpoint whose acknowledgement was lost may have been sent again.
    """
    assert run.status["outputs"] == counted(count=COUNT)
    events = run.events()
    tasks = run.tasks("count")
    assert len(tasks) == 2
    once = [(1, str(number)) for number in range(COUNT)]
    for task in tasks:
        output, name = task["status"]["output"], task["metadata"]["name"]
        assert output["journal"] == [{"number": number, "attempt": 1} for number in range(COUNT)]
        assert output["resumed"] == []
        ledger = saved(events, name)
        assert ([key for key, _ in groupby(ledger)] if repeats else ledger) == once
    assert [event["attempt"] for event in of_type(events, "task.succeeded")] == [1, 1, 1]
    assert not of_type(events, "task.retrying") + of_type(events, "task.disrupted")
    return events


def check_published(run: Run, events: list[Event]) -> None:
    """JetStream has every event, none that the ledger does not have, and each once."""
    ids = run.published(len(events))
    assert sorted(ids) == sorted(event["id"] for event in events)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_is_killed_while_agents_run(
    perdure: Installation, namespace: str, component: str
) -> None:
    run = Run.apply(perdure, namespace, counting("counting", count=COUNT, gate=GATE))
    run.until_checkpoint(3)
    before = restarts(perdure)
    perdure.signal(component, signal.SIGKILL)
    perdure.until_back(component, restarts=before[component] + 1)
    run.open_gates()
    run.until()
    # The kill was real, and no other component restarted.
    assert restarts(perdure) == before | {component: before[component] + 1}
    events = check_undisturbed(run, repeats=component in {"gateway", "postgres"})
    check_published(run, events)


def test_every_component_is_killed_while_agents_end(perdure: Installation, namespace: str) -> None:
    """An agent ends and another is killed while the operator is frozen; then all components die at once."""
    run = Run.apply(perdure, namespace, counting("counting", count=COUNT, gate=GATE))
    run.until_checkpoint(GATE)
    before = restarts(perdure)
    finisher, victim = (task["status"]["podName"] for task in run.tasks("count"))

    def phases() -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in run.pods("count")}

    perdure.signal("operator", signal.SIGSTOP)
    try:
        perdure.kill_agent(namespace, victim)
        run.open_gate(finisher)
        ended = {finisher: "Succeeded", victim: "Failed"}
        until(lambda: phases() == ended, seconds=DEADLINE, what="both agents to end")
        assert run.status["phase"] == "Running"
    finally:
        for component in COMPONENTS:
            perdure.signal(component, signal.SIGKILL)
    run.until()
    assert restarts(perdure) == {component: count + 1 for component, count in before.items()}

    assert run.status["outputs"] == counted(count=COUNT)
    events = run.events()
    first, second = run.tasks("count")
    assert [first["status"]["attempt"], second["status"]["attempt"]] == [1, 2]
    assert second["status"]["output"]["resumed"] == [{"attempt": 2, "checkpoint": GATE}]
    attempts = [1] * GATE + [2] * (COUNT - GATE)
    assert saved(events, second["metadata"]["name"]) == [
        (attempt, str(number)) for number, attempt in enumerate(attempts)
    ]
    assert saved(events, first["metadata"]["name"]) == [(1, str(number)) for number in range(COUNT)]
    (retrying,) = of_type(events, "task.retrying")
    assert data(retrying)["exitCode"] == 137
    check_published(run, events)
