"""Names and labels of the objects that a run creates.

Names follow from the run's uid and the task alone. So an action that is repeated after a crash finds the
object that it created before, and never an object of a deleted run of the same name.
"""

from __future__ import annotations

import base64
import hashlib
import zlib

from perdure.domain.records import NO_INDEX, TaskKey

LABEL_WORKFLOW = "perdure.dev/workflow"
LABEL_STEP = "perdure.dev/step"
LABEL_INDEX = "perdure.dev/index"
LABEL_TASK = "perdure.dev/task"
LABEL_ATTEMPT = "perdure.dev/attempt"
LABEL_SHARD = "perdure.dev/shard"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "perdure"
ANNOTATION_INPUT = "perdure.dev/input"
#: On a pod: the PEM certificates that sign the gateway's, behind the file that PERDURE_CA_FILE names.
ANNOTATION_GATEWAY_CA = "perdure.dev/gateway-ca"
#: On a pod whose run does not keep all ended pods: what `retention.pods` of the run says.
ANNOTATION_RETENTION = "perdure.dev/retention"
#: On an AgentTask that a run created: says whose desiredState and retention hold for it.
ANNOTATION_CONTROLLED = "perdure.dev/controlled"

SHARDS = 64
HASH_LENGTH = 5
#: Leaves room for `-<attempt>` in the 63 characters of a pod's name, which is its host name.
MAX_TASK_NAME = 57


def name_hash(uid: str, key: TaskKey) -> str:
    """Five base32 characters of SHA-256 over `<uid>/<step>/<index or empty>`."""
    index = "" if key.index == NO_INDEX else str(key.index)
    digest = hashlib.sha256(f"{uid}/{key.step}/{index}".encode()).digest()
    return base64.b32encode(digest[:HASH_LENGTH]).decode().lower()[:HASH_LENGTH]


def task_name(workflow: str, uid: str, key: TaskKey) -> str:
    """`<workflow>-<step>[-<index>]-<hash>`; in a name that is too long, workflow and step are cut.

    The index is never cut: among the hashes of ten thousand tasks, two are likely to be the same.
    """
    index = "" if key.index == NO_INDEX else f"-{key.index}"
    readable = _cut(f"{workflow}-{key.step}", MAX_TASK_NAME - HASH_LENGTH - 1 - len(index))
    return f"{readable}{index}-{name_hash(uid, key)}"


def pod_name(task: str, uid: str, key: TaskKey, attempt: int) -> str:
    """`<task>-<attempt>`.

    The name of a standalone AgentTask is the user's: one that is too long for a pod is cut and gets the hash.
    """
    suffix = f"-{attempt}"
    if len(task) + len(suffix) > 63:
        task = f"{_cut(task, 63 - len(suffix) - HASH_LENGTH - 1)}-{name_hash(uid, key)}"
    return task + suffix


def _cut(text: str, length: int) -> str:
    return text[:length].rstrip("-.")


def shard_of(uid: str) -> int:
    """The shard of a run: crc32 of its uid modulo 64."""
    return zlib.crc32(uid.encode()) % SHARDS


def task_labels(*, workflow: str | None, task: str, key: TaskKey, uid: str) -> dict[str, str]:
    """Labels of an AgentTask that a run creates. `workflow` is None for a standalone AgentTask's pods."""
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_TASK: task,
        LABEL_SHARD: f"{shard_of(uid):02d}",
    }
    if workflow is not None:
        labels[LABEL_WORKFLOW] = workflow
        labels[LABEL_STEP] = key.step
    if key.index != NO_INDEX:
        labels[LABEL_INDEX] = str(key.index)
    return labels


def pod_labels(labels: dict[str, str], attempt: int) -> dict[str, str]:
    """Labels of an attempt's pod: its task's, and the attempt's number."""
    return {**labels, LABEL_ATTEMPT: str(attempt)}
