"""The Job around one attempt's pod, for clusters whose policies or queues know Jobs only.

The Job makes one pod and never another: whether an attempt is followed by a next one is decided by us alone,
so a Job that fails for whatever cause stays failed, and the next attempt has a Job of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.domain.names import ANNOTATION_INPUT

API_VERSION = "batch/v1"


def build_job(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a Job for an attempt, made of the pod that it would otherwise have (`build_pod`).

    It has the pod's name, labels, annotations and owner; its own pod has the labels and annotations, a name
    that Kubernetes makes up, and the Job as its owner.
    """
    metadata = pod["metadata"]
    labels, annotations = metadata["labels"], metadata["annotations"]
    return {
        "apiVersion": API_VERSION,
        "kind": "Job",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": dict(labels),
            # The input is for the pod's file; twice in etcd would be once too often.
            "annotations": {name: text for name, text in annotations.items() if name != ANNOTATION_INPUT},
            "ownerReferences": metadata["ownerReferences"],
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            # Says in the Job's status which kind of end it was, and that none of them is to be ignored.
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
                ]
            },
            "template": {
                "metadata": {"labels": dict(labels), "annotations": dict(annotations)},
                "spec": pod["spec"],
            },
        },
    }
