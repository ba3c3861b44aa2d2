"""The commands that a Kubernetes user types, and their output."""

from __future__ import annotations

import copy
import re

import pytest

from tests.cluster.installation import DEADLINE, Installation
from tests.cluster.manifests import leave, python, step, workflow
from tests.cluster.runs import Run, of_type
from tests.cluster.waiting import until

_FAILS_ONCE = "import os, sys; sys.exit(os.environ['PERDURE_ATTEMPT'] == '1')"
MANIFEST = workflow(
    "greetings",
    step("greet", python(leave('"hello"')), forEach=["ann", "bob"]),
    step("flaky", python(_FAILS_ONCE), retry={"limit": 1}),
    step("join", python(leave("done")), input={"all": "${steps.greet.outputs}"}),
    outputs={"all": "${steps.greet.outputs}"},
)  # fmt: skip
#: As process 1 the program would ignore SIGTERM, and take half a minute to stop.
_SLEEPS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); time.sleep(600)"


@pytest.fixture(scope="module")
def finished(perdure: Installation) -> Run:
    """A run that has succeeded."""
    run = Run.apply(perdure, perdure.make_namespace("kubectl"), MANIFEST)
    run.until()
    return run


def rows(table: str) -> list[dict[str, str]]:
    """A table of kubectl, whose columns are where its header says."""
    header, *lines = table.splitlines()
    columns = [(match.group().strip(), match.start()) for match in re.finditer(r"\S+\s*", header)]
    ends = [start for _, start in columns[1:]] + [None]
    return [
        {name: line[start:end].strip() for (name, start), end in zip(columns, ends, strict=True)}
        for line in lines
    ]


def test_kubectl_get_workflows_prints_the_columns(finished: Run) -> None:
    (row,) = rows(finished.kubectl("get", "workflows"))
    assert list(row) == ["NAME", "PHASE", "PROGRESS", "MESSAGE", "AGE"]
    assert (row["NAME"], row["PHASE"], row["PROGRESS"], row["MESSAGE"]) == (
        "greetings",
        "Succeeded",
        "4/4",
        "",
    )
    (wide,) = rows(finished.kubectl("get", "workflows", "-o", "wide"))
    assert list(wide) == ["NAME", "PHASE", "PROGRESS", "MESSAGE", "AGE", "ATTEMPTS", "EVENTS"]
    assert (wide["ATTEMPTS"], wide["EVENTS"]) == ("5", str(len(finished.events())))


def test_kubectl_get_agenttasks_prints_the_columns(finished: Run) -> None:
    found = rows(finished.kubectl("get", "agenttasks"))
    assert list(found[0]) == ["NAME", "PHASE", "ATTEMPT", "REASON", "CHECKPOINT", "AGE"]
    names = [re.sub("-[a-z2-7]{5}$", "", row["NAME"]) for row in found]
    assert names == ["greetings-flaky", "greetings-greet-0", "greetings-greet-1", "greetings-join"]
    assert [(row["PHASE"], row["ATTEMPT"]) for row in found] == [
        ("Succeeded", "2"), ("Succeeded", "1"), ("Succeeded", "1"), ("Succeeded", "1"),
    ]  # fmt: skip


def test_kubectl_get_knows_category_and_short_name(finished: Run) -> None:
    every = finished.kubectl("get", "perdure", "-o", "name").split()
    assert {name.partition("/")[0] for name in every} == {"agenttask.perdure.dev", "workflow.perdure.dev"}
    assert finished.kubectl("get", "pwf", "-o", "name").split() == ["workflow.perdure.dev/greetings"]


def test_kubectl_describe_prints_events(finished: Run) -> None:
    def shown() -> set[tuple[str, ...]]:
        text = finished.kubectl("describe", "workflow", "greetings")
        # `Events:` stands in the status as well, with the number of the last one.
        lines = text[text.rindex("\nEvents:") :].splitlines()
        return {tuple(line.split()[:2]) for line in lines[4:] if line.startswith("  ")}

    last = ("Normal", "Succeeded")
    until(lambda: last in shown(), seconds=DEADLINE, what="the last Event, which comes by and by")
    assert shown() == {("Normal", "Started"), ("Warning", "Retrying"), last}


def test_kubectl_wait_returns_when_a_run_is_complete(finished: Run) -> None:
    said = finished.kubectl("wait", "--for=condition=Complete", "workflow/greetings", "--timeout=5s")
    assert said == "workflow.perdure.dev/greetings condition met\n"
    assert finished.condition("Accepted")["observedGeneration"] == 1


def test_applying_a_finished_run_again_changes_nothing(perdure: Installation, finished: Run) -> None:
    before = perdure.get(finished.resource, "-n", finished.namespace)
    said = perdure.apply(finished.namespace, MANIFEST)
    assert (said.code, said.output) == (0, "workflow.perdure.dev/greetings unchanged\n")
    after = perdure.get(finished.resource, "-n", finished.namespace)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert len(finished.pods()) == 5


def test_a_changed_spec_is_refused(perdure: Installation, finished: Run) -> None:
    changed = copy.deepcopy(MANIFEST)
    changed["spec"]["steps"][0]["forEach"] = ["ann", "bob", "cid"]
    said = perdure.apply(finished.namespace, changed)
    assert said.code != 0
    assert "Invalid value" in said.error
    assert "nothing but desiredState can be changed once it is applied" in said.error
    assert "apply it under a new name, or delete" in said.error
    assert len(finished.tasks("greet")) == 2


def test_a_deletion_removes_tasks_and_pods_and_keeps_the_history(
    perdure: Installation, namespace: str
) -> None:
    run = Run.apply(
        perdure,
        namespace,
        workflow(
            "deleted", step("first", python("pass")), step("second", python(_SLEEPS), dependsOn=["first"])
        ),
    )

    def second_runs() -> bool:
        return [pod["status"]["phase"] for pod in run.pods("second")] == ["Running"]

    until(second_runs, seconds=DEADLINE, what="the second step to run")
    run.kubectl("delete", "workflow", "deleted", "--timeout=60s", seconds=90)

    def left() -> str:
        return run.kubectl("get", "workflows,agenttasks", "-o", "name") + run.kubectl(
            "get", "pods", "-l", "perdure.dev/workflow=deleted", "-o", "name"
        )

    until(lambda: not left(), seconds=DEADLINE, what="its tasks and pods to go")

    def cancelled() -> bool:
        return bool(of_type(run.events(), "workflow.cancelled"))

    until(cancelled, seconds=DEADLINE, what="the ledger to know that the run was cancelled")
    types = [event["type"] for event in run.events()]
    assert types == [
        "workflow.created", "workflow.started", "task.scheduled", "task.started", "task.succeeded",
        "task.scheduled", "task.started", "task.cancelled", "workflow.cancelled",
    ]  # fmt: skip


def test_a_missing_serviceaccount_is_waited_for(perdure: Installation, namespace: str) -> None:
    agent = python("pass") | {"serviceAccountName": "robot"}
    run = Run.apply(perdure, namespace, workflow("early", step("only", agent)))

    def waits() -> bool:
        return 'serviceaccount "robot" not found' in run.status.get("message", "")

    until(waits, seconds=DEADLINE, what="the run to say what it waits for")
    assert run.status["phase"] == "Running"
    run.kubectl("create", "serviceaccount", "robot")
    assert run.until()["attempts"] == 1
    (pod,) = run.pods()
    assert pod["spec"]["serviceAccountName"] == "robot"
