"""Whose token opens what: each pod's own task, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.installation import DEADLINE, Installation
from tests.cluster.manifests import AGENTS, counting
from tests.cluster.runs import Run, data, of_type
from tests.cluster.waiting import until

_OWN = "/agent/v1/task"


def ask(run: Run, pod: str, *requests: dict[str, Any]) -> list[tuple[int, Any]]:
    """Status and body of requests that a pod sends to the gateway."""
    source = (AGENTS / "requests.py").read_text()
    said = run.perdure.execute(run.namespace, pod, "python", "-c", source, stdin=json.dumps(requests))
    return [(status, body) for status, body in json.loads(said)]


def problem(answer: tuple[int, Any]) -> tuple[int, str]:
    """Status, and the kind of the problem document."""
    status, body = answer
    return status, body["type"].rpartition("/")[2]


def token_of(run: Run, pod: str) -> str:
    """The token that the kubelet put into a pod."""
    show = "import os; print(open(os.environ['PERDURE_TOKEN_FILE']).read())"
    return run.perdure.execute(run.namespace, pod, "python", "-c", show).strip()


@pytest.fixture(scope="module")
def waiting(perdure: Installation) -> Run:
    """Two agents that wait at their gates; the second one has a checkpoint."""
    namespace = perdure.make_namespace("tokens")
    manifest = counting("counting", count=2)
    manifest["spec"]["steps"][0]["forEach"] = [
        {"seed": "a", "gate": 0},
        {"seed": "b", "gate": 1},
    ]
    manifest["spec"]["steps"][0]["input"] = {"seed": "${item.seed}", "gate": "${item.gate}", "count": 2}
    run = Run.apply(perdure, namespace, manifest)

    def ready() -> bool:
        tasks = [task.get("status", {}) for task in run.tasks("count")]
        return [task.get("phase") for task in tasks] == ["Running"] * 2 and "checkpoint" in tasks[1]

    until(ready, seconds=DEADLINE, what="both agents to wait")
    return run


@pytest.fixture(scope="module")
def pods(waiting: Run) -> tuple[str, str]:
    """The two pods' names."""
    first, second = waiting.tasks("count")
    return first["status"]["podName"], second["status"]["podName"]


def test_a_request_without_a_valid_token_is_refused(waiting: Run, pods: tuple[str, str]) -> None:
    create = ("create", "token", "default")
    foreign = waiting.kubectl(*create, "--audience", "somebody-else").strip()
    unbound = waiting.kubectl(*create, "--audience", "perdure").strip()
    bound = ("--bound-object-kind", "Pod", "--bound-object-name", pods[1])
    wrong_audience = waiting.kubectl(*create, "--audience", "other", *bound).strip()
    own = token_of(waiting, pods[0])
    header, claims, signature = own.split(".")
    tampered = ".".join((header, claims, ("A" if signature[0] != "A" else "B") + signature[1:]))
    tokens = [None, "", "nonsense", foreign, unbound, wrong_audience, tampered]
    answers = ask(waiting, pods[0], *({"path": _OWN, "token": token} for token in tokens))
    assert [problem(answer) for answer in answers] == [(401, "unauthenticated")] * len(tokens)
    # The same request with the pod's own token is answered.
    ((status, _),) = ask(waiting, pods[0], {"path": _OWN})
    assert status == 200


def test_a_token_reads_its_own_task_only(waiting: Run, pods: tuple[str, str]) -> None:
    first, second = (task["metadata"]["name"] for task in waiting.tasks("count"))
    ((status, task),) = ask(waiting, pods[0], {"path": _OWN})
    assert (status, task["task"], task["input"]["seed"], task["checkpoint"]) == (200, first, "a", None)
    # The other task's checkpoint, which exists: by number, by name, by every field that a gateway might read.
    answers = ask(
        waiting,
        pods[0],
        {"path": "/agent/v1/checkpoints/latest"},
        {"path": "/agent/v1/checkpoints/1"},
        {"path": f"/agent/v1/checkpoints/latest?task={second}&index=1"},
        {"path": "/agent/v1/checkpoints/latest", "headers": {"Perdure-Task": second}},
        {"path": f"/agent/v1/tasks/{second}"},
        {"path": f"/agent/v1/task/{second}/checkpoints/latest"},
    )
    assert [status for status, _ in answers] == [404] * len(answers)
    ((status, task),) = ask(waiting, pods[1], {"path": _OWN})
    assert (status, task["task"], task["checkpoint"]["sequence"]) == (200, second, 1)


def test_a_token_writes_its_own_task_only(waiting: Run, pods: tuple[str, str]) -> None:
    first, second = (task["metadata"]["name"] for task in waiting.tasks("count"))
    before = len(waiting.events())
    answers = ask(
        waiting,
        pods[0],
        {"method": "PUT", "path": f"/agent/v1/task/{second}/checkpoints", "body": 1},
        {"method": "POST", "path": f"/agent/v1/tasks/{second}/result", "body": {"output": "forged"}},
        {"method": "POST", "path": "/agent/v1/result", "body": {"output": "forged", "task": second}},
        {"method": "PUT", "path": f"/agent/v1/checkpoints?label=mine&task={second}", "body": "forged"},
    )
    # A field too many is refused, or means nothing: then the write is the writer's own.
    assert [status for status, _ in answers][:2] == [404, 404]
    assert answers[2][0] == 422, answers[2]
    assert answers[3] == (201, {"sequence": 1})
    (event,) = waiting.events()[before:]
    assert (event["type"], event["task"], data(event)["label"]) == ("task.checkpointed", first, "mine")


def test_the_token_of_a_superseded_attempt_writes_nothing(waiting: Run, pods: tuple[str, str]) -> None:
    """Must be the last one here: it ends the run."""
    old = token_of(waiting, pods[1])
    waiting.kubectl("delete", "pod", pods[1], "--grace-period=1", "--wait=false")

    def replaced() -> bool:
        status = waiting.tasks("count")[1]["status"]
        return bool(status["attempt"] == 2)

    until(replaced, seconds=DEADLINE, what="a second attempt")
    before = waiting.events()
    answers = ask(
        waiting,
        pods[0],
        {"path": _OWN, "token": old},
        {"path": "/agent/v1/checkpoints/latest", "token": old},
        {"method": "PUT", "path": "/agent/v1/checkpoints", "body": "late", "token": old},
        {"method": "POST", "path": "/agent/v1/progress", "body": {"percent": 1}, "token": old},
        {"method": "POST", "path": "/agent/v1/heartbeat", "token": old},
        {"method": "POST", "path": "/agent/v1/result", "body": {"output": "late"}, "token": old},
        {"method": "POST", "path": "/agent/v1/failure", "body": {"message": "late", "retryable": False},
         "token": old},
    )  # fmt: skip
    assert [problem(answer) for answer in answers] == [(409, "superseded")] * len(answers)
    waiting.kubectl("delete", "workflow", waiting.name)
    until(
        lambda: of_type(waiting.events(), "workflow.cancelled"), seconds=DEADLINE, what="the end of the run"
    )
    late = [event for event in waiting.events()[len(before) :] if event.get("attempt") == 1]
    assert {event["type"] for event in late} <= {"task.cancelled"}
