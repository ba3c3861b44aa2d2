"""Jobs: the attempt's pod as template, without retries."""

import copy
from typing import Any

import pytest

from perdure.kube.jobs import build_job

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "audit-a-x7k2q-1",
        "namespace": "team",
        "labels": {"perdure.dev/task": "audit-a-x7k2q", "perdure.dev/attempt": "1", "queue": "q"},
        "annotations": {"perdure.dev/input": "{}", "theirs": "x"},
        "ownerReferences": [{"kind": "AgentTask", "name": "audit-a-x7k2q", "uid": "u", "controller": True}],
    },
    "spec": {"restartPolicy": "Never", "containers": [{"name": "agent"}]},
}


@pytest.fixture
def job() -> dict[str, Any]:
    before = copy.deepcopy(POD)
    built = build_job(POD)
    assert before == POD
    return built


def test_a_job_has_the_pods_name_and_owner(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    for field in ("name", "namespace", "labels", "ownerReferences"):
        assert job["metadata"][field] == POD["metadata"][field]


def test_the_pod_of_a_job_is_the_attempts_pod(job: dict[str, Any]) -> None:
    template = job["spec"]["template"]
    assert template["spec"] == POD["spec"]
    assert template["metadata"] == {
        "labels": POD["metadata"]["labels"],
        "annotations": POD["metadata"]["annotations"],
    }


def test_a_job_has_no_copy_of_the_input(job: dict[str, Any]) -> None:
    assert job["metadata"]["annotations"] == {"theirs": "x"}


def test_a_job_retries_nothing(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailJob"}
    # Fields with which Kubernetes would delete the Job or its pod before Perdure's retention does.
    assert not {"ttlSecondsAfterFinished", "activeDeadlineSeconds"} & spec.keys()
