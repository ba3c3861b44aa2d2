"""Containers that know nothing of Perdure: exit code and termination message are their whole contract."""

from __future__ import annotations

import pytest

from tests.cluster.installation import DEADLINE, Installation
from tests.cluster.manifests import agenttask, leave, python, step, workflow
from tests.cluster.runs import Run, data, of_type
from tests.cluster.waiting import until

#: A first attempt that ends with this code, and a second one that succeeds.
_SECOND_TIME = "import os, sys; sys.exit({} if os.environ['PERDURE_ATTEMPT'] == '1' else 0)"
_WAITS = "import os, time; time.sleep(600 if os.environ['PERDURE_ATTEMPT'] == '1' else 0)"
_ECHO = "import sys; open('/dev/termination-log', 'w').write(sys.argv[1])"
_GREEDY = "data = bytearray(); [data.extend(b'x' * 1048576) for _ in range(400)]"

MANIFESTS = (
    workflow(
        "outputs",
        step("text", python(leave("plain words\n"))),
        step("json", python(leave('{"n": 41, "nothing": null}'))),
        step("silent", python("pass")),
        step("next", python(_ECHO, "${steps.json.output.n + 1}")),
        step("each", python(_ECHO, "${item}-$(HOME)"), forEach=["a", "b"]),
        outputs={
            "text": "${steps.text.output}",
            "json": "${steps.json.output}",
            "silent": "${steps.silent.output}",
            "next": "${steps.next.output}",
            "each": "${steps.each.outputs}",
        },
    ),
    workflow(
        "failing",
        step("bad", python("import sys; print('the disk is full'); sys.exit(3)"), retry={"limit": 1}),
        step("after", python("pass"), dependsOn=["bad"]),
    ),
    workflow("recovers", step("only", python(_SECOND_TIME.format(4)), retry={"limit": 1})),
    workflow("interrupted", step("only", python(_SECOND_TIME.format(75)))),
    workflow("deleted", step("only", python(_WAITS))),
    workflow("greedy", step("only", python(_GREEDY) | {"resources": {"limits": {"memory": "64Mi"}}})),
    agenttask("alone", python(leave("42")), retry={"limit": 2}),
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(perdure: Installation) -> dict[str, Run]:
    """All of them at once: most of the time is the kubelet's."""
    namespace = perdure.make_namespace("plain")
    return {manifest["metadata"]["name"]: Run.apply(perdure, namespace, manifest) for manifest in MANIFESTS}


def test_termination_messages_are_outputs(runs: dict[str, Run]) -> None:
    run = runs["outputs"]
    assert run.until()["outputs"] == {
        "text": "plain words",
        "json": {"n": 41, "nothing": None},
        "silent": None,
        "next": 42,
        "each": ["a-$(HOME)", "b-$(HOME)"],
    }
    assert len(of_type(run.events(), "task.succeeded")) == 6


def test_a_failing_container_is_retried_and_fails_the_run(runs: dict[str, Run]) -> None:
    run = runs["failing"]
    status = run.until("Failed")
    events = run.events()
    (task,) = run.tasks()
    assert task["status"]["phase"] == "Failed"
    assert (task["status"]["attempt"], task["status"]["retries"], task["status"]["exitCode"]) == (2, 1, 3)
    assert task["status"]["reason"] == "ExitCode"
    assert task["status"]["message"] == "exit code 3: the disk is full"
    (retrying,) = of_type(events, "task.retrying")
    assert (data(retrying)["retry"], data(retrying)["limit"], data(retrying)["exitCode"]) == (1, 1, 3)
    assert [item["phase"] for item in status["steps"]] == ["Failed", "Skipped"]
    assert status["steps"][1]["reason"] == "DependencyNotMet"
    assert run.condition("Complete")["status"] == "False"
    assert "bad" in status["message"]
    assert len(run.pods()) == 2


def test_a_retry_may_succeed(runs: dict[str, Run]) -> None:
    run = runs["recovers"]
    run.until()
    (task,) = run.tasks()
    assert (task["status"]["attempt"], task["status"]["retries"]) == (2, 1)
    assert [event["attempt"] for event in of_type(run.events(), "task.started")] == [1, 2]


def test_exit_code_75_is_a_disruption(runs: dict[str, Run]) -> None:
    run = runs["interrupted"]
    run.until()
    (task,) = run.tasks()
    assert (task["status"]["attempt"], task["status"]["disruptions"]) == (2, 1)
    assert "retries" not in task["status"]
    (disrupted,) = of_type(run.events(), "task.disrupted")
    assert (data(disrupted)["reason"], data(disrupted)["exitCode"]) == ("Interrupted", 75)


def test_a_pod_deleted_by_kubectl_is_a_disruption(runs: dict[str, Run]) -> None:
    run = runs["deleted"]

    def running() -> list[str]:
        pods = run.pods()
        return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"]

    (pod,) = until(running, seconds=DEADLINE, what="the agent to run")
    # Its program is process 1 and ignores SIGTERM: without a short grace this would take half a minute.
    run.kubectl("delete", "pod", pod, "--grace-period=1", "--wait=false")
    run.until()
    (task,) = run.tasks()
    assert (task["status"]["attempt"], task["status"]["disruptions"]) == (2, 1)
    assert "retries" not in task["status"]
    (disrupted,) = of_type(run.events(), "task.disrupted")
    assert data(disrupted)["message"] == "the pod was deleted from outside"


def test_too_little_memory_is_a_failure_with_its_own_reason(runs: dict[str, Run]) -> None:
    run = runs["greedy"]
    run.until("Failed")
    (task,) = run.tasks()
    assert task["status"]["reason"] == "OOMKilled"
    assert "raise its memory limit" in task["status"]["message"]
    assert len(of_type(run.events(), "task.failed")) == 1


def test_a_standalone_agenttask_runs(runs: dict[str, Run]) -> None:
    run = runs["alone"]
    status = run.until()
    assert (status["output"], status["attempt"], status["phase"]) == (42, 1, "Succeeded")
    assert [event["type"] for event in run.events()] == ["task.scheduled", "task.started", "task.succeeded"]
    (pod,) = run.pods()
    assert pod["metadata"]["name"] == status["podName"]
