"""Copies of a finished run: everything that names it is another, and nothing else is."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from tests.bench.history import _ORIGINAL, Template, copied, copy_name

from perdure.domain.names import LABEL_SHARD, pod_name, shard_of, task_name
from perdure.domain.records import TaskKey

UID, TASK_UID, POD_UID = (str(uuid4()) for _ in range(3))
KEY = TaskKey("s01")
TASK = task_name(_ORIGINAL, UID, KEY)
POD = pod_name(TASK, UID, KEY, 1)
SHARD = f"{shard_of(UID):02d}"


def template() -> Template:
    metadata = {"name": TASK, "uid": TASK_UID, "labels": {LABEL_SHARD: SHARD, "other": SHARD}}
    owner = {"name": _ORIGINAL, "uid": UID}
    task = json.dumps({"metadata": {**metadata, "ownerReferences": [owner]}}, separators=(",", ":"))
    label = LABEL_SHARD.encode()
    pod = b"k8s\0" + b"|".join(
        [
            POD.encode(),
            POD_UID.encode(),
            TASK_UID.encode(),
            b"\n" + bytes([len(label)]) + label + b"\x12\x02" + SHARD.encode(),
        ]
    )
    return Template(
        uid=UID,
        steps={"s01": (TASK_UID, TASK, POD_UID, POD)},
        objects=[(f"/tasks/{TASK}".encode(), task.encode())],
        pods=[(f"/pods/{POD}".encode(), pod)],
    )


def test_a_copy_is_another_run_throughout() -> None:
    original = template()
    uid, name = str(uuid4()), copy_name(7)
    (task_at, task_text), (pod_at, pod) = copied(
        original, [*original.objects, *original.pods], uid=uid, name=name
    )
    task = json.loads(task_text)
    own = task_name(name, uid, KEY)
    assert task_at == f"/tasks/{own}".encode() and pod_at == f"/pods/{own}-1".encode()
    metadata = task["metadata"]
    assert metadata["name"] == own and metadata["ownerReferences"] == [{"name": name, "uid": uid}]
    assert metadata["labels"] == {LABEL_SHARD: f"{shard_of(uid):02d}", "other": SHARD}
    assert pod.split(b"|")[2] == metadata["uid"].encode() != TASK_UID.encode()
    assert pod.split(b"|")[1] != POD_UID.encode()
    assert pod.endswith(b"\x12\x02" + f"{shard_of(uid):02d}".encode())
    assert len(pod) == len(original.pods[0][1])
    for text in (task_text, pod):
        assert not [old for old in (UID, TASK_UID, POD_UID, _ORIGINAL) if old.encode() in text]


def test_two_copies_have_nothing_in_common() -> None:
    original = template()
    texts = [
        copied(original, original.objects, uid=str(uuid4()), name=copy_name(number))[0][1]
        for number in range(2)
    ]
    first, second = (json.loads(text)["metadata"] for text in texts)
    assert first["uid"] != second["uid"] and first["name"] != second["name"]


def test_a_name_of_another_length_is_refused() -> None:
    original = template()
    with pytest.raises(ValueError, match=_ORIGINAL):
        copied(original, original.objects, uid=str(uuid4()), name="short")
