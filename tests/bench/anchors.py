"""The cost of single pieces of work on this machine, compared with the machine of the budgets.

A budget in milliseconds is met on one machine and missed on another with the same code. These are the
smallest things that everything measured here is made of; their ratio to the reference is by how much this
machine is slower, at this moment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import nats
import orjson

from tests.bench import ceiling
from tests.bench.figures import Result, quantile
from tests.bench.rig import Rig

#: Bytes of a pod in a watch event, of a row and of a message.
_POD, _ROW, _MESSAGE = 3000, 1024, 512


@dataclass(frozen=True, slots=True)
class Anchor:
    """A piece of work, and its p50 in milliseconds on the machine where the budgets were set."""

    name: str
    reference: float


DECODE = Anchor("decode a pod of 3 KB, json", 0.019)
DECODE_FAST = Anchor("decode a pod of 3 KB, orjson", 0.009)
ROUND_TRIP = Anchor("Postgres: select 1", 0.03)
COMMIT = Anchor("Postgres: insert 1 KB and commit durably", 0.26)
PUBLISH = Anchor("JetStream: publish 512 B and be acknowledged", 0.12)


def slowness() -> float:
    """How many times as long as where the budgets were set a piece of work takes now.

    Of compiled code, so that the build of the interpreter does not matter. The work takes some 10 ms.
    """
    body = _pod()
    return quantile(_timed(lambda: orjson.loads(body), 1000), 0.5) * 1000 / DECODE_FAST.reference


async def measure(rig: Rig, result: Result, *, count: int) -> None:
    """Adds the p50 of each to the result, with how many times the reference that is."""
    body = _pod()
    _add(result, DECODE, _timed(lambda: json.loads(body), count))
    _add(result, DECODE_FAST, _timed(lambda: orjson.loads(body), count))
    await _postgres(rig, result, count)
    await _stream(rig, result, count)


async def _postgres(rig: Rig, result: Result, count: int) -> None:
    connection = await asyncpg.connect(rig.ledger_url)
    row = os.urandom(_ROW)
    try:
        await connection.execute("create table anchor (id bigserial primary key, content bytea)")
        _add(result, ROUND_TRIP, await _one_by_one(lambda _: connection.fetchval("select 1"), count))
        insert = "insert into anchor (content) values ($1)"
        _add(result, COMMIT, await _one_by_one(lambda _: connection.execute(insert, row), count))
        await connection.execute("drop table anchor")
    finally:
        await connection.close()


async def _stream(rig: Rig, result: Result, count: int) -> None:
    client = await nats.connect(rig.nats.url)
    message = os.urandom(_MESSAGE)
    try:
        stream = client.jetstream()
        await stream.add_stream(name="anchor", subjects=["anchor"])
        _add(result, PUBLISH, await _one_by_one(lambda _: stream.publish("anchor", message), count))
        await stream.delete_stream("anchor")
    finally:
        await client.close()


def _pod() -> bytes:
    document = ceiling.pod("anchors", 0)
    short = max(0, _POD - len(orjson.dumps(document)))
    return orjson.dumps({**document, "padding": ["x" * 10] * (short // 13)})


def _timed(work: Callable[[], object], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return taken


async def _one_by_one(call: Callable[[int], Awaitable[object]], count: int) -> list[float]:
    taken, _ = await ceiling.timed(call, count, 1)
    return taken


def _add(result: Result, anchor: Anchor, seconds: list[float]) -> None:
    taken = quantile(seconds, 0.5) * 1000
    result.add(f"{anchor.name} p50", taken, "ms", worst=max(seconds) * 1000, samples=len(seconds))
    name = f"{anchor.name}: of what it took where the budgets were set"
    result.add(name, taken / anchor.reference, "times", samples=len(seconds))
