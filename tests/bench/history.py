"""Finished runs by the ten thousand, without waiting for them to run.

A chain is run once for real; what it left in etcd and in the ledger is then written again under other names,
as if it had run so often. That is how memory and speed are measured with a long history. The controller
manager keeps no more than some thousands of ended pods, so no more are made.

Objects are copied byte by byte, past the API server, which would take an hour for them: names and uids of a
copy are as long as those of the original, so that they can stand in their places in JSON and protobuf alike.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from perdure.domain.names import LABEL_SHARD, LABEL_STEP, pod_name, shard_of, task_name
from perdure.domain.records import TaskKey
from tests.bench import etcd
from tests.bench.chains import Chains
from tests.bench.load import apply_all, chain, patience
from tests.bench.rig import Rig
from tests.bench.say import reporting
from tests.support.waiting import until

#: Ended pods that a controller manager with its defaults leaves alone; the rig's collects none.
MOST_PODS = 12_500
#: The original's name. As long as those of its copies.
_ORIGINAL = "done-original"
_AT_ONCE = 100
#: Where the API server keeps them.
_WORKFLOWS_AT = "/registry/perdure.dev/workflows/{}/"
_TASKS_AT = "/registry/perdure.dev/agenttasks/{}/"
_PODS_AT = "/registry/pods/{}/"
#: What follows a label's name and stands before its value, in JSON and in protobuf: the value has two bytes.
_BEFORE_SHARD = (b'":"', b"\x12\x02")


@dataclass(frozen=True, slots=True)
class Template:
    """A finished run as stored in etcd: keys and values."""

    uid: str
    #: By step: uid and name of the task, uid and name of its pod.
    steps: Mapping[str, tuple[str, str, str, str]]
    objects: Sequence[tuple[bytes, bytes]]
    pods: Sequence[tuple[bytes, bytes]]


def copy_name(number: int) -> str:
    """The name of a copy."""
    return f"done-{number:08d}"


async def ran_once(rig: Rig, namespace: str, *, steps: int) -> Template:
    """Run a chain for real; its operator has gone when this returns. Raises TimeoutError."""
    async with rig.operator() as operator, Chains(rig.api, namespace) as seen:
        await apply_all(rig.kube, namespace, [chain(_ORIGINAL, steps=steps)])
        if not await seen.all_ended(1, within=patience(steps)):
            raise TimeoutError(f"the original does not end:\n{operator.tail()}")

        async def shown() -> bool:
            tasks, _ = await rig.kube.list("AgentTask", namespace=namespace)
            phases = [(task.get("status") or {}).get("phase") for task in tasks]
            return phases == ["Succeeded"] * steps

        await until(shown, within=60)
    (workflow,), _ = await rig.kube.list("Workflow", namespace=namespace)
    tasks = _by_step((await rig.kube.list("AgentTask", namespace=namespace))[0])
    pods = _by_step((await rig.kube.list("Pod", namespace=namespace))[0])
    async with etcd.connected(rig.pid_of("etcd")) as store:
        places = [at.format(namespace).encode() for at in (_WORKFLOWS_AT, _TASKS_AT, _PODS_AT)]
        kept = [await store.under(place) for place in places]
    return Template(
        uid=workflow["metadata"]["uid"],
        steps={step: (*tasks[step], *pods[step]) for step in tasks},
        objects=kept[0] + kept[1],
        pods=kept[2],
    )


def _by_step(objects: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    metadata = [each["metadata"] for each in objects]
    return {each["labels"][LABEL_STEP]: (each["uid"], each["name"]) for each in metadata}


async def repeat(rig: Rig, template: Template, names: Sequence[str], *, pods: int) -> None:
    """Write a finished run for each name; `pods`: how many more ended pods are to be made at most.

    No operator may run meanwhile: it would take them for new ones.
    """
    made = 0
    connection = await asyncpg.connect(rig.ledger_url)
    try:
        async with (
            etcd.connected(rig.pid_of("etcd")) as store,
            reporting(lambda: f"{made} of {len(names)} finished runs written"),
        ):
            for start in range(0, len(names), _AT_ONCE):
                copies = {str(uuid.uuid4()): name for name in names[start : start + _AT_ONCE]}
                pairs = []
                for uid, name in copies.items():
                    some = template.pods[: max(0, pods)]
                    pods -= len(some)
                    pairs += copied(template, [*template.objects, *some], uid=uid, name=name)
                await store.put(pairs)
                await _rows(connection, template, list(copies.items()))
                made += len(copies)
            # As autovacuum would have done by and by.
            await connection.execute("analyze")
            await until(rig.at_rest, within=patience(len(names)))
    finally:
        await connection.close()


def copied(
    template: Template, pairs: Sequence[tuple[bytes, bytes]], *, uid: str, name: str
) -> list[tuple[bytes, bytes]]:
    """Keys and values with names, uids and shard of another run.

    Raises ValueError for a name that is not as long as the original's.
    """
    changes = {template.uid: uid, _ORIGINAL: name}
    for step, (task_uid, task, pod_uid, pod) in template.steps.items():
        new = task_name(name, uid, TaskKey(step))
        changes |= {
            task_uid: str(uuid.uuid4()),
            task: new,
            pod_uid: str(uuid.uuid4()),
            pod: pod_name(new, uid, TaskKey(step), 1),
        }
    # A pod's name has its task's in it, which has its run's.
    ordered = [(old.encode(), changes[old].encode()) for old in sorted(changes, key=len, reverse=True)]
    for between in _BEFORE_SHARD:
        label = LABEL_SHARD.encode() + between
        ordered.append((label + _shard(template.uid), label + _shard(uid)))
    if odd := [before for before, after in ordered if len(before) != len(after)]:
        raise ValueError(f"not as long in the copy: {odd[0].decode()}")
    result = []
    for key, value in pairs:
        for before, after in ordered:
            key, value = key.replace(before, after), value.replace(before, after)
        result.append((key, value))
    return result


def _shard(uid: str) -> bytes:
    return f"{shard_of(uid):02d}".encode()


async def _rows(connection: Any, template: Template, made: Sequence[tuple[str, str]]) -> None:
    """The ledger's side of as many runs, in one transaction."""
    uids = [uid for uid, _ in made]
    async with connection.transaction():
        shards = [shard_of(uid) for uid in uids]
        await connection.execute(_WORKFLOWS, template.uid, uids, [name for _, name in made], shards)
        for table in ("step", "task", "attempt", "event"):
            await connection.execute(_CHILDREN.format(table=table), template.uid, uids)
        steps = list(template.steps)
        tasks = [
            (uid, step, task_name(name, uid, TaskKey(step)), pod)
            for uid, name in made
            for step in steps
            for pod in (pod_name(task_name(name, uid, TaskKey(step)), uid, TaskKey(step), 1),)
        ]
        columns = [list(column) for column in zip(*tasks, strict=True)]
        await connection.execute(_TASK_NAMES, *columns[:3])
        await connection.execute(_POD_NAMES, columns[0], columns[1], columns[3])


_WORKFLOWS = """
insert into perdure.workflow
select (jsonb_populate_record(w, jsonb_build_object('uid', n.uid, 'name', n.name, 'shard', n.shard))).*
from perdure.workflow w, unnest($2::uuid[], $3::text[], $4::int[]) as n (uid, name, shard)
where w.uid = $1::uuid
"""
_CHILDREN = """
insert into perdure.{table}
select (jsonb_populate_record(c, jsonb_build_object('workflow_uid', n.uid))).*
from perdure.{table} c, unnest($2::uuid[]) as n (uid)
where c.workflow_uid = $1::uuid
"""
_TASK_NAMES = """
update perdure.task t set name = n.name
from unnest($1::uuid[], $2::text[], $3::text[]) as n (uid, step, name)
where t.workflow_uid = n.uid and t.step = n.step
"""
_POD_NAMES = """
update perdure.attempt a set pod_name = n.name, pod_uid = null
from unnest($1::uuid[], $2::text[], $3::text[]) as n (uid, step, name)
where a.workflow_uid = n.uid and a.step = n.step
"""
