"""Finished runs by the ten thousand, without waiting for them to run.

A chain is run once for real; what it left in the cluster and in the ledger is then written again under other
names, as if it had run so often. That is how memory and speed are measured beside a long history. The
controller manager keeps no more than some thousands of ended pods, so no more are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from perdure.domain.names import LABEL_SHARD, LABEL_STEP, LABEL_TASK, pod_name, shard_of, task_name
from perdure.domain.records import TaskKey
from tests.bench.chains import Chains
from tests.bench.load import apply_all, chain, patience
from tests.bench.rig import Rig
from tests.bench.say import telling
from tests.bench.waiting import poll

#: Ended pods that a controller manager with its defaults leaves alone.
MOST_PODS = 12_500
_AT_ONCE = 32
_ROWS_AT_ONCE = 500
_COPIED = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")


@dataclass(frozen=True, slots=True)
class Template:
    """One finished run, as it lies in the cluster."""

    workflow: dict[str, Any]
    tasks: list[dict[str, Any]]
    pods: list[dict[str, Any]]

    @property
    def uid(self) -> str:
        uid: str = self.workflow["metadata"]["uid"]
        return uid


async def ran_once(rig: Rig, namespace: str, *, steps: int) -> Template:
    """Run a chain for real; its operator has gone when this returns. Raises TimeoutError."""
    async with rig.operator() as operator, Chains(rig.api, namespace) as seen:
        await apply_all(rig.kube, namespace, [chain("template", steps=steps)])
        if not await seen.all_ended(1, within=patience(steps)):
            raise TimeoutError(f"the template does not end:\n{operator.tail()}")

        async def shown() -> bool:
            tasks, _ = await rig.kube.list("AgentTask", namespace=namespace)
            phases = [(task.get("status") or {}).get("phase") for task in tasks]
            return phases == ["Succeeded"] * steps

        await poll(shown, within=60)
    workflows, _ = await rig.kube.list("Workflow", namespace=namespace)
    tasks, _ = await rig.kube.list("AgentTask", namespace=namespace)
    pods, _ = await rig.kube.list("Pod", namespace=namespace)
    return Template(workflows[0], tasks, pods)


async def repeat(rig: Rig, namespace: str, template: Template, names: Sequence[str], *, pods: int) -> None:
    """Write a finished run for each name; `pods`: how many more ended pods are to be made at most.

    No operator may run meanwhile: it would take them for new ones.
    """
    waiting = list(reversed(names))
    made: list[tuple[str, str]] = []
    left = [min(pods, len(names) * len(template.pods))]

    async def work() -> None:
        while waiting:
            name = waiting.pop()
            made.append((await _objects(rig, namespace, template, name, pods=left), name))

    connection = await asyncpg.connect(rig.ledger_url)
    try:
        async with telling(lambda: f"{len(made)} of {len(names)} finished runs written"):
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(work())
            for start in range(0, len(made), _ROWS_AT_ONCE):
                await _rows(connection, template, made[start : start + _ROWS_AT_ONCE])
        path = f"/api/v1/namespaces/{namespace}/pods?limit=1&fieldSelector=status.phase!=Succeeded"

        async def all_ended() -> bool:
            return not (await rig.kube.raw_get(path))["items"]

        await poll(all_ended, within=patience(pods))
        # As autovacuum would have done by and by.
        await connection.execute("analyze")
    finally:
        await connection.close()


async def _objects(rig: Rig, namespace: str, template: Template, name: str, *, pods: list[int]) -> str:
    """Returns the uid of the Workflow."""
    workflow = _copy(template.workflow, name)
    uid: str = (await rig.kube.create("Workflow", namespace, workflow))["metadata"]["uid"]
    status = {"status": template.workflow["status"]}
    await rig.kube.patch_status("Workflow", namespace, name, status)
    owners: dict[str, dict[str, Any]] = {}
    for task in template.tasks:
        key = TaskKey(task["metadata"]["labels"][LABEL_STEP])
        own = task_name(name, uid, key)
        copy = _copy(task, own)
        copy["metadata"]["ownerReferences"] = [_owner(task, name=name, uid=uid)]
        _relabel(copy, uid=uid, task=own)
        created = await rig.kube.create("AgentTask", namespace, copy)
        await rig.kube.patch_status("AgentTask", namespace, own, {"status": task["status"]})
        owners[key.step] = created["metadata"]
    for pod in template.pods:
        if pods[0] <= 0:
            break
        pods[0] -= 1
        key = TaskKey(pod["metadata"]["labels"][LABEL_STEP])
        owner = owners[key.step]
        copy = _copy(pod, pod_name(owner["name"], uid, key, 1))
        copy["metadata"]["ownerReferences"] = [_owner(pod, name=owner["name"], uid=owner["uid"])]
        _relabel(copy, uid=uid, task=owner["name"])
        # The simulated node ends it, as it ended the original.
        await rig.kube.create("Pod", namespace, copy)
    return uid


def _copy(obj: dict[str, Any], name: str) -> dict[str, Any]:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _COPIED}
    kept = {key: value for key, value in obj.items() if key not in ("status", "metadata")}
    return {**kept, "metadata": {**metadata, "name": name, "labels": dict(metadata.get("labels") or {})}}


def _owner(obj: dict[str, Any], *, name: str, uid: str) -> dict[str, Any]:
    reference: dict[str, Any] = obj["metadata"]["ownerReferences"][0]
    return {**reference, "name": name, "uid": uid}


def _relabel(obj: dict[str, Any], *, uid: str, task: str) -> None:
    labels = obj["metadata"]["labels"]
    for label, value in ((LABEL_SHARD, f"{shard_of(uid):02d}"), (LABEL_TASK, task)):
        if label in labels:
            labels[label] = value


async def _rows(connection: Any, template: Template, made: Sequence[tuple[str, str]]) -> None:
    """The ledger's side of as many runs, in one transaction."""
    uids = [uid for uid, _ in made]
    async with connection.transaction():
        shards = [shard_of(uid) for uid in uids]
        await connection.execute(_WORKFLOWS, template.uid, uids, [name for _, name in made], shards)
        for table in ("step", "task", "attempt", "event"):
            await connection.execute(_CHILDREN.format(table=table), template.uid, uids)
        steps = [task["metadata"]["labels"][LABEL_STEP] for task in template.tasks]
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
