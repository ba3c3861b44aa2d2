"""What the Job controller makes of a Job, for every fake that plays it."""

from __future__ import annotations

from typing import Any, Final

from tests.fakes.apiserver import Object

#: The label by which the Job controller finds the pods of a Job.
JOB_UID: Final = "batch.kubernetes.io/controller-uid"


def pod_of_job(job: Object, number: int) -> Object:
    """The body of a Job's pod. `number` makes its name unique, in place of the random suffix."""
    metadata, template = job["metadata"], job["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "metadata": {
            **template["metadata"],
            "labels": {**(template["metadata"].get("labels") or {}), JOB_UID: metadata["uid"]},
            "name": f"{metadata['name']}-{number:05x}",
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": template["spec"],
    }


def job_of(pod: Object) -> dict[str, Any] | None:
    """The owner reference to the Job that created a pod; None if no Job did."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner["kind"] == "Job"), None)
