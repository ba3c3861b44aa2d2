"""A program that makes the requests of a step with the libraries alone: no decisions, no state.

The operator's CPU is held against it: requests, watches, rows and messages of the same size, through the same
libraries and as often as the operator was counted to need them, without what makes them worth anything. It
knows no state, makes no status, fences and repeats nothing, and keeps no order.

Started by `bare.py` in the image's Python. Standard input has one JSON object; standard output answers it
with one once the watches are open.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import asyncpg
import nats
import orjson
import uvloop
from yarl import URL

from perdure.domain.names import LABEL_STEP, LABEL_WORKFLOW
from perdure.kopf_watch import listen
from perdure.kube.connection import Connection, load_connection

_TASKS = "/apis/perdure.dev/v1alpha1/namespaces/{}/agenttasks"
_RUNS = "/apis/perdure.dev/v1alpha1/namespaces/{}/workflows"
_PODS = "/api/v1/namespaces/{}/pods"
_BRIEF = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
_JSON, _MERGE = "application/json", "application/merge-patch+json"
#: The prefix of a watch event about a creation, which this program does not parse.
_MADE = b'{"type":"ADDED",'
#: Seconds from one read of the outbox to the next, and to the deletion of its rows.
_ROUND, _FORGET = 0.012, 0.1
#: As often for each step, counted in the load of B2.
_COMMITS, _EVENTS, _RUN_STATUSES = 1.3, 3.3, 0.55

_TABLES = """
create table if not exists bare_run (run text primary key, version bigint not null);
create table if not exists bare_outbox (id bigserial primary key, run text, body text);
"""
_COMMIT = """
with moved as (
    insert into bare_run values ($1, 1) on conflict (run) do update set version = bare_run.version + 1
    returning version
), recorded as (
    insert into bare_outbox (run, body) select $1, unnest($2::text[])
)
select version, $3::text as attempts, $4::timestamptz as at from moved
"""
_NOTE = """
insert into bare_run values ($1, 1) on conflict (run) do update set version = bare_run.version
returning version, $2::text as pod
"""
_LOOK = "select id, run, body from bare_outbox where id > $1 order by id limit 256"
_REMOVE = "delete from bare_outbox where id <= $1"


class _Api:
    """Requests, and watches."""

    def __init__(self, session: aiohttp.ClientSession, connection: Connection) -> None:
        self._session = session
        self._connection = connection

    async def send(self, method: str, path: str, body: Any, *, kind: str = _JSON) -> Any:
        authorization = await self._connection.authorization(False)
        async with self._session.request(
            method,
            URL(self._connection.host + path, encoded=True),
            data=orjson.dumps(body),
            headers={"Accept": _BRIEF, "Content-Type": kind, "Authorization": authorization or ""},
        ) as response:
            response.raise_for_status()
            return orjson.loads(await response.read())

    async def watch(
        self, path: str, received: Callable[[dict[str, Any]], None], opened: asyncio.Event
    ) -> None:
        authorization = await self._connection.authorization(False)
        async with self._session.get(
            f"{self._connection.host}{path}?watch=1&allowWatchBookmarks=true&resourceVersion=0",
            headers={"Authorization": authorization or ""},
        ) as response:
            response.raise_for_status()
            opened.set()
            rest = b""
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if not line.startswith(_MADE):
                        received(orjson.loads(line)["object"])


class _Ledger:
    """Rows of many callers in one transaction, and the outbox."""

    def __init__(self, writing: Any, reading: Any) -> None:
        self._writing = writing
        self._reading = reading
        self._waiting: dict[str, list[tuple[tuple[Any, ...], asyncio.Future[Any]]]] = {}
        self._arrived = asyncio.Event()

    async def write(self, statement: str, *arguments: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(statement, []).append((arguments, answer))
        self._arrived.set()
        return await answer

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                statement = next(iter(self._waiting))
                batch = self._waiting.pop(statement)
                rows = await self._writing.fetchmany(statement, [arguments for arguments, _ in batch])
                for (_, answer), row in zip(batch, rows, strict=True):
                    answer.set_result(row)

    async def relay(self, client: Any) -> None:
        loop = asyncio.get_running_loop()
        last, forget_at = 0, loop.time() + _FORGET
        while True:
            due = loop.time() + _ROUND
            if rows := await self._reading.fetch(_LOOK, last):
                headers = {"Nats-Msg-Id": "", "Content-Type": "application/cloudevents+json"}
                await asyncio.gather(
                    *(
                        client.request(
                            f"bare.{row['run']}",
                            row["body"].encode(),
                            timeout=5,
                            headers={**headers, "Nats-Msg-Id": f"{row['run']}/{row['id']}"},
                        )
                        for row in rows
                    )
                )
                last = rows[-1]["id"]
            if loop.time() >= forget_at:
                await self._reading.fetch(_REMOVE, last)
                forget_at = loop.time() + _FORGET
            await asyncio.sleep(max(0.0, due - loop.time()))


class _Steps:
    """Chains of steps: one after the other's pod has ended."""

    def __init__(self, order: Mapping[str, Any], api: _Api, ledger: _Ledger) -> None:
        self._order = order
        self._namespace: str = order["namespace"]
        self._api = api
        self._ledger = ledger
        #: By the pod's name.
        self._ends: dict[str, asyncio.Future[None]] = {}

    def received(self, obj: Mapping[str, Any]) -> None:
        if (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            end = self._ends.pop(obj["metadata"]["name"], None)
            if end is not None:
                end.set_result(None)

    async def chain(self, run: Mapping[str, Any]) -> None:
        name = run["metadata"]["name"]
        statuses = commits = events = 0.0
        for number in range(self._order["steps"]):
            task = await self._make(_TASKS, self._order["task"], run, f"{name}-{number}")
            self._ends[f"{name}-{number}"] = end = asyncio.get_running_loop().create_future()
            pod = await self._make(_PODS, self._order["pod"], task, f"{name}-{number}")
            await self._ledger.write(_NOTE, name, pod["metadata"]["uid"])
            await end
            commits, events, statuses = commits + _COMMITS, events + _EVENTS, statuses + _RUN_STATUSES
            while commits >= 1:
                recorded = [self._order["event"]] * int(events)
                await self._ledger.write(_COMMIT, name, recorded, self._order["attempts"], None)
                commits, events = commits - 1, events - len(recorded)
            await self._show(_TASKS, f"{name}-{number}", self._order["task_status"])
            if statuses >= 1:
                await self._show(_RUNS, name, {**self._order["run_status"], "phase": "Running"})
                statuses -= 1
        await self._show(_RUNS, name, self._order["run_status"])

    async def _make(self, path: str, template: Mapping[str, Any], owner: Mapping[str, Any], name: str) -> Any:
        reference = {**self._order["owners"][template["kind"]], "uid": owner["metadata"]["uid"]}
        reference["name"] = owner["metadata"]["name"]
        labels = {
            **template["metadata"]["labels"],
            LABEL_WORKFLOW: name.rpartition("-")[0],
            LABEL_STEP: name.rpartition("-")[2],
        }
        metadata = {**template["metadata"], "name": name, "labels": labels, "ownerReferences": [reference]}
        return await self._api.send("POST", path.format(self._namespace), {**template, "metadata": metadata})

    async def _show(self, path: str, name: str, status: Mapping[str, Any]) -> None:
        address = f"{path.format(self._namespace)}/{name}/status"
        await self._api.send("PATCH", address, {"status": status}, kind=_MERGE)


async def _main() -> None:
    order = json.loads(sys.stdin.readline())
    if kubeconfig := os.environ.get("PERDURE_KUBECONFIG"):
        os.environ["KUBECONFIG"] = kubeconfig  # which kopf reads
    connection = await load_connection(kubeconfig)
    writing, reading = [await asyncpg.connect(order["database"]) for _ in range(2)]
    await writing.execute(_TABLES)
    client = await nats.connect(order["nats"])
    stream = client.jetstream()
    await stream.add_stream(name="bare", subjects=["bare.>"])
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=64, ssl=connection.tls or True, keepalive_timeout=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        read_bufsize=2**18,
    ) as session:
        api, ledger = _Api(session, connection), _Ledger(writing, reading)
        steps = _Steps(order, api, ledger)
        opened = [asyncio.Event() for _ in range(3)]
        async with asyncio.TaskGroup() as group:
            begun: set[str] = set()

            def received(kind: str, run: Mapping[str, Any], deleted: bool) -> None:
                if not deleted and (uid := run["metadata"]["uid"]) not in begun:
                    begun.add(uid)
                    group.create_task(steps.chain(run))

            group.create_task(ledger.run())
            group.create_task(ledger.relay(client))
            for path, event in ((_PODS, opened[0]), (_TASKS, opened[1])):
                group.create_task(api.watch(path.format(order["namespace"]), steps.received, event))
            group.create_task(
                listen(
                    received,
                    on_gap=lambda: None,
                    kinds=["Workflow"],
                    namespaces=[order["namespace"]],
                    stop=asyncio.Event(),
                    ready=opened[2],
                )
            )
            for event in opened:
                await event.wait()
            print(json.dumps({"ready": True}), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
