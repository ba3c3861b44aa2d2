"""Names (semantics 1) and labels (2): recomputed here by hand, and valid at their longest."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api.workflow import MAX_ITEMS
from perdure.domain.names import (
    name_hash,
    pod_labels,
    pod_name,
    shard_of,
    task_labels,
    task_name,
)
from perdure.domain.records import TaskKey

UID = "0b5f1c9e-7f55-4d8e-9a3d-2f1f6f4f7a10"
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

dns_labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
keys = st.builds(TaskKey, dns_labels, st.integers(-1, 9999))
uids = st.uuids().map(str)


@pytest.mark.parametrize(
    ("uid", "key", "hashed"),
    [
        # printf %s '<uid>/<step>/<index or empty>' | sha256sum | xxd -r -p | base32 | head -c 5
        (UID, TaskKey("analyse"), "aemhd"),
        (UID, TaskKey("analyse", 0), "gcetj"),
        (UID, TaskKey("analyse", 9999), "g4fv3"),
        (UID, TaskKey(""), "crjmc"),
    ],
)
def test_hashes(uid: str, key: TaskKey, hashed: str) -> None:
    assert name_hash(uid, key) == hashed


def test_readable_names() -> None:
    assert task_name("audit", UID, TaskKey("analyse")) == "audit-analyse-aemhd"
    assert task_name("audit", UID, TaskKey("analyse", 0)) == "audit-analyse-0-gcetj"
    assert pod_name("audit-analyse-aemhd", UID, TaskKey("analyse"), 1) == "audit-analyse-aemhd-1"


@pytest.mark.parametrize(
    ("workflow", "step", "index", "name"),
    [
        # 51 readable characters fit with the hash into 57; one more is cut.
        ("w" * 25, "s" * 25, -1, "w" * 25 + "-" + "s" * 25),
        ("w" * 25, "s" * 26, -1, "w" * 25 + "-" + "s" * 25),
        ("w" * 23, "s" * 25, 7, "w" * 23 + "-" + "s" * 25 + "-7"),
        ("w" * 23, "s" * 25, 77, "w" * 23 + "-" + "s" * 24 + "-77"),
        # A dash at the cut goes too: there is one between, not two.
        ("w" * 50, "step", -1, "w" * 50),
        ("w" * 51, "step", -1, "w" * 51),
        ("w" * 63, "s" * 63, -1, "w" * 51),
        # The index stays: ten thousand hashes of five characters would not all differ.
        ("w" * 63, "s" * 63, 9999, "w" * 46 + "-9999"),
        ("w" * 45 + "-x", "s", 9999, "w" * 45 + "-9999"),
        ("w" * 48 + "--x", "s", -1, "w" * 48 + "--x"),
        ("w" * 49 + "--x", "s", -1, "w" * 49),
    ],
)
def test_only_the_readable_part_is_cut(workflow: str, step: str, index: int, name: str) -> None:
    key = TaskKey(step, index)
    assert task_name(workflow, UID, key) == f"{name}-{name_hash(UID, key)}"


@given(dns_labels, uids, keys, st.integers(1, 99999))
def test_names_are_valid_and_end_in_hash_and_attempt(
    workflow: str, uid: str, key: TaskKey, attempt: int
) -> None:
    task = task_name(workflow, uid, key)
    assert len(task) <= 57
    assert DNS_LABEL.fullmatch(task)
    readable, _, hashed = task.rpartition("-")
    assert hashed == name_hash(uid, key)
    assert not readable.endswith("-")
    pod = pod_name(task, uid, key, attempt)
    assert pod == f"{task}-{attempt}"
    assert len(pod) <= 63


@given(dns_labels, uids, st.integers(1, 99999))
def test_pods_of_standalone_tasks_fit_whatever_the_task_is_called(name: str, uid: str, attempt: int) -> None:
    key = TaskKey("")
    pod = pod_name(name, uid, key, attempt)
    assert len(pod) <= 63
    assert DNS_LABEL.fullmatch(pod)
    assert pod.endswith(f"-{attempt}")
    if len(name) + len(str(attempt)) + 1 <= 63:
        assert pod == f"{name}-{attempt}"
    else:
        assert pod.endswith(f"-{name_hash(uid, key)}-{attempt}")


@pytest.mark.parametrize(
    ("length", "attempt", "cut"), [(61, 1, None), (62, 1, 55), (61, 10, 54), (60, 10, None), (63, 1000, 52)]
)
def test_where_pods_of_standalone_tasks_are_cut(length: int, attempt: int, cut: int | None) -> None:
    key = TaskKey("")
    wanted = "t" * length if cut is None else f"{'t' * cut}-{name_hash(UID, key)}"
    assert pod_name("t" * length, UID, key, attempt) == f"{wanted}-{attempt}"


def test_no_two_tasks_of_the_largest_step_share_a_name_however_long_it_is() -> None:
    for step in ("s", "s" * 63):
        assert (
            len({task_name("w" * 60, UID, TaskKey(step, index)) for index in range(MAX_ITEMS)}) == MAX_ITEMS
        )


def test_tasks_of_another_run_of_the_same_name_have_other_names() -> None:
    names = {task_name("audit", f"uid-{number}", TaskKey("a")) for number in range(200)}
    assert len(names) == 200


@given(dns_labels, dns_labels, uids, keys, st.integers(1, 1000))
def test_labels_are_valid(workflow: str, task: str, uid: str, key: TaskKey, attempt: int) -> None:
    labels = task_labels(workflow=workflow, task=task_name(workflow, uid, key), key=key, uid=uid)
    labels = pod_labels(labels, attempt)
    assert all(len(value) <= 63 and LABEL_VALUE.fullmatch(value) for value in labels.values())
    alone = pod_labels(task_labels(workflow=None, task=task, key=TaskKey(""), uid=uid), attempt)
    assert all(len(value) <= 63 and LABEL_VALUE.fullmatch(value) for value in alone.values())


def test_labels_of_a_task_and_its_pod() -> None:
    labels = task_labels(workflow="audit", task="audit-a-3-abcde", key=TaskKey("a", 3), uid=UID)
    assert labels == {
        "app.kubernetes.io/managed-by": "perdure",
        "perdure.dev/workflow": "audit",
        "perdure.dev/step": "a",
        "perdure.dev/index": "3",
        "perdure.dev/task": "audit-a-3-abcde",
        "perdure.dev/shard": f"{shard_of(UID):02d}",
    }
    assert pod_labels(labels, 2) == labels | {"perdure.dev/attempt": "2"}
    assert "perdure.dev/index" not in task_labels(workflow="audit", task="t", key=TaskKey("a"), uid=UID)
    alone = task_labels(workflow=None, task="t", key=TaskKey(""), uid=UID)
    assert not {"perdure.dev/workflow", "perdure.dev/step"} & alone.keys()


@pytest.mark.parametrize(("uid", "shard"), [("123456789", 38), (UID, 47)])
def test_shards(uid: str, shard: int) -> None:
    assert shard_of(uid) == shard


@given(uids)
def test_there_are_64_shards(uid: str) -> None:
    assert 0 <= shard_of(uid) < 64
