"""Manifest of the Job around one attempt's pod, for clusters whose policies or queues know Jobs only.

The Job creates one pod and never a second one: retries are Perdure's decision alone. A failed Job stays
failed, and the next attempt has a Job of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.domain.names import ANNOTATION_GATEWAY_CA, ANNOTATION_INPUT

API_VERSION = "batch/v1"


def build_job(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of an attempt's Job, from the pod that the attempt would have without a Job (`build_pod`).

    The Job has the name, labels, annotations and owner of `pod`. The pod of the Job has the labels and
    annotations, a generated name, and the Job as owner.
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
            # Input and authority are for files in the pod. A second copy would only take space in etcd.
            "annotations": {
                name: text
                for name, text in annotations.items()
                if name not in (ANNOTATION_INPUT, ANNOTATION_GATEWAY_CA)
            },
            "ownerReferences": metadata["ownerReferences"],
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            # The rules write the kind of the pod's end to the Job's status, and count every kind as a
            # failure.
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
