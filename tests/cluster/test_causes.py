"""Every cause of waiting, injected for real: its reason and its message are in the run's status."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.causes import CAUSES, LIMIT, Cause, cluster_wide, namespaced
from tests.cluster.installation import Installation
from tests.cluster.waiting import INTERVAL

Object = dict[str, Any]
#: Seconds for all causes to be written while the machine starts dozens of pods. One cause takes less
#: than five, as the figures show that the fixture prints.
ALL_WRITTEN = 60.0


@dataclass
class Waits:
    """The runs of all causes, as their statuses were when each first named its cause, or last."""

    seen: dict[str, Object] = field(default_factory=dict)
    #: Seconds from the creation of all runs.
    seconds: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, list[Object]] = field(default_factory=dict)
    table: str = ""


@pytest.fixture(scope="module")
def waits(perdure: Installation) -> Iterator[Waits]:
    """All runs, applied at once, after the objects that make them wait."""
    perdure.upgrade(f"operator.maxRunningTasksPerNamespace={LIMIT}")
    spaces = {purpose: perdure.make_namespace(f"causes-{purpose}") for purpose in namespaced()}
    label = "pod-security.kubernetes.io/enforce=restricted"
    perdure.ok("label", "namespace", spaces["restricted"], label)
    suffix = spaces["plain"].rpartition("-")[2]
    wide = cluster_wide(suffix)
    for purpose, objects in namespaced().items():
        if objects:
            assert perdure.apply(spaces[purpose], *objects).code == 0
    said = perdure.apply("default", *wide)
    assert said.code == 0, said.error
    # The API server reads policies and webhooks by and by.
    time.sleep(3)
    found = Waits()
    try:
        for purpose, namespace in spaces.items():
            manifests = [cause.manifest for cause in CAUSES.values() if cause.place == purpose]
            said = perdure.apply(namespace, *manifests)
            assert said.code == 0, said.error
        _watch(perdure, spaces, found)
        found.table = perdure.ok("get", "workflows.perdure.dev", "-n", spaces["plain"])
        yield found
    finally:
        for item in wide:
            perdure.kubectl("delete", item["kind"], item["metadata"]["name"], "--ignore-not-found")
        for namespace in spaces.values():
            perdure.kubectl("delete", "workflows.perdure.dev", "--all", "-n", namespace, "--wait=false")
        perdure.upgrade("operator.maxRunningTasksPerNamespace=0")


def _watch(perdure: Installation, spaces: dict[str, str], found: Waits) -> None:
    begun = time.monotonic()
    while len(found.seconds) < len(CAUSES) and time.monotonic() - begun < ALL_WRITTEN:
        for purpose, namespace in spaces.items():
            runs = {
                run["metadata"]["name"]: run
                for run in perdure.items("workflows.perdure.dev", "-n", namespace)
            }
            for name, cause in CAUSES.items():
                run = runs.get(cause.manifest["metadata"]["name"])
                if cause.place != purpose or run is None or name in found.seconds:
                    continue
                found.seen[name] = run.get("status", {})
                if _is_named(cause, found.seen[name]):
                    found.seconds[name] = time.monotonic() - begun
        time.sleep(INTERVAL)
    for namespace in spaces.values():
        for task in perdure.items("agenttasks.perdure.dev", "-n", namespace):
            run = task["metadata"]["labels"].get("perdure.dev/workflow", "")
            found.tasks.setdefault(run, []).append(task)
    print(json.dumps({name: round(seconds, 1) for name, seconds in found.seconds.items()}, indent=1))


def _told(cause: Cause, status: Object) -> tuple[str | None, str]:
    """Reason and whole message of a cause: in the condition, for a run that has begun nothing else."""
    reconciling = _condition(status)
    if not cause.step:
        return reconciling.get("reason"), reconciling.get("message", "")
    step = next((item for item in status.get("steps", ()) if item["name"] == cause.step), {})
    message = step.get("message", "")
    if reconciling.get("reason") == step.get("reason"):
        # A step's message is cut to 120 characters.
        message = max(message, reconciling.get("message", ""), key=len)
    return step.get("reason"), message


def _condition(status: Object) -> Object:
    return next((item for item in status.get("conditions", ()) if item["type"] == "Reconciling"), {})


def _is_named(cause: Cause, status: Object) -> bool:
    reason, message = _told(cause, status)
    return reason == cause.reason and all(text in message for text in cause.texts)


@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_of_waiting_is_named(waits: Waits, name: str) -> None:
    cause, status = CAUSES[name], waits.seen.get(name, {})
    reason, message = _told(cause, status)
    assert reason == cause.reason, json.dumps(status, indent=1)
    for text in cause.texts:
        assert text in message


def test_one_line_of_kubectl_get_per_run(waits: Waits) -> None:
    lines = waits.table.rstrip().splitlines()
    assert len(lines) == 1 + sum(cause.place == "plain" for cause in CAUSES.values())
    column = lines[0].index("MESSAGE"), lines[0].index("AGE")
    assert max(len(line[slice(*column)].rstrip()) for line in lines) <= 100


@pytest.mark.parametrize(
    "name", ["image", "secret-volume", "quota", "webhook-away", "gates", "unschedulable"]
)
def test_an_agent_tasks_reason_follows_its_pod(waits: Waits, name: str) -> None:
    cause = CAUSES[name]
    (task,) = waits.tasks[cause.manifest["metadata"]["name"]]
    status = task["status"]
    assert status["reason"] == cause.reason
    for text in cause.texts:
        assert text in status["message"]
