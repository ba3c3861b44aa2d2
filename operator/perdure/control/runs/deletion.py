"""An object that is to be deleted, named so that no later object of its name is deleted instead."""

from __future__ import annotations

from typing import Final, NamedTuple

from perdure.control.cluster_cache.store import POD
from perdure.domain.engine.pod_facts import PodFacts

JOB: Final = "Job"


class Deletion(NamedTuple):
    """An object to be deleted, if it still has this uid."""

    kind: str
    name: str
    uid: str


def deletion_of_pod(pod: PodFacts) -> Deletion:
    """What is deleted to delete a pod: a Job's goes with the Job, which would create another one.

    A pod that has lost its Job is deleted itself.
    """
    if pod.of_job and pod.owner_uid:
        return Deletion(JOB, pod.name, pod.owner_uid)
    return Deletion(POD, pod.pod_name, pod.uid)
