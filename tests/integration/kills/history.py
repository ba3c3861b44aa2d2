"""A check of ledger and stream after runs whose steps must each have run exactly once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import asyncpg
import nats
import nats.errors

_RUNS = """
select w.name, w.phase, w.last_sequence, w.uid,
    array(select e.sequence from perdure.event e where e.workflow_uid = w.uid order by e.sequence)
        as sequences,
    array(select e.type || ' ' || coalesce(e.task, '') from perdure.event e where e.workflow_uid = w.uid)
        as events,
    (select count(*) from perdure.attempt a where a.workflow_uid = w.uid) as attempts
from perdure.workflow w
where w.namespace = $1
"""
#: Events that each task has once.
_ONCE = ("task.scheduled", "task.started", "task.succeeded")
#: Seconds for the relay to publish what is left in the outbox.
_PUBLISHED = 60.0


async def faults_of(url: str, namespace: str, *, runs: int, steps: int) -> list[str]:
    """The faults in the ledger, one sentence each."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(_RUNS, namespace)
    finally:
        await connection.close()
    faults = [] if len(rows) == runs else [f"the ledger has {len(rows)} of {runs} runs"]
    for row in rows:
        name = row["name"]
        if row["phase"] != "Succeeded":
            faults.append(f"{name} is {row['phase']}")
        if list(row["sequences"]) != list(range(1, row["last_sequence"] + 1)):
            faults.append(f"{name}: its events are numbered {row['sequences']}")
        if row["attempts"] != steps:
            faults.append(f"{name}: {row['attempts']} attempts for {steps} steps")
        counts = Counter(event.split(" ", 1)[0] for event in row["events"])
        for type_ in _ONCE:
            if counts[type_] != steps or len({e for e in row["events"] if e.startswith(type_)}) != steps:
                faults.append(f"{name}: {counts[type_]} times {type_} for {steps} steps")
    return faults


async def unpublished(url: str, stream_url: str, namespace: str) -> set[str]:
    """Ids of events that the ledger has, and JetStream does not come to have."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "select e.workflow_uid::text || '/' || e.sequence as id from perdure.event e"
            " join perdure.workflow w on w.uid = e.workflow_uid where w.namespace = $1",
            namespace,
        )
    finally:
        await connection.close()
    missing = {str(row["id"]) for row in rows}
    client = await nats.connect(stream_url)
    try:
        subscription = await client.jetstream().subscribe(
            f"perdure.events.{namespace}.>", ordered_consumer=True
        )
        deadline = asyncio.get_running_loop().time() + _PUBLISHED
        while missing and asyncio.get_running_loop().time() < deadline:
            try:
                message = await subscription.next_msg(timeout=1)
            except (TimeoutError, nats.errors.TimeoutError):
                continue
            missing.discard(json.loads(message.data)["id"])
    finally:
        await client.close()
    return missing
