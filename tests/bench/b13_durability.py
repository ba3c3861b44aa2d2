"""B13: everything is killed in turn while agents save checkpoints: what was acknowledged must be there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from perdure.bus import cloudevents, subjects
from perdure.ledger import Ledger
from tests.bench import budgets, stream
from tests.bench.agents import environment_of, session_of, start_held
from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.rig import Rig
from tests.bench.say import reporting, say
from tests.bench.scenario import Scenario
from tests.bench.service import Service
from tests.integration.operator.test_acknowledged import Writers, check_ledger
from tests.support.waiting import until

#: Checkpoints of one writer: as many as the ledger keeps of a task, so that each can be read back.
_EACH = 1000
_FEWEST = 4
#: Seconds for the stream to have all that the ledger has.
_PUBLISHED = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: To be acknowledged; each is an event as well.
    checkpoints: int = 100_000
    #: How often something is killed: operator, gateway, NATS and Postgres in turn.
    kills: int = 24


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Writers hammer; then ledger, stream and what a client received live are compared."""
    count = max(_FEWEST, -(-size.checkpoints // _EACH))
    each = -(-size.checkpoints // count)
    writers = Writers()
    async with (
        rig.operator() as operator,
        rig.gateway() as (gateway, url),
        rig.namespace("b13", keep=True) as namespace,
        Chains(rig.api, namespace) as seen,
    ):
        say(f"{count} writers, each with a pod")
        pods = await start_held(rig, namespace, seen, runs=1, tasks=count, kept=_EACH)
        async with Ledger(rig.ledger_url, pool_size=2) as ledger:
            uid = (await session_of(ledger, namespace, next(iter(pods)))).workflow_uid
        received: list[str] = []
        begun = time.monotonic()
        async with _client(rig, namespace, received):
            async with (
                reporting(lambda: f"{writers.total} of {each * count} checkpoints acknowledged"),
                asyncio.TaskGroup() as group,
            ):
                for pod_uid, pod in pods.items():
                    environment = await environment_of(rig, url, namespace, uid=pod_uid, pod=pod)
                    group.create_task(writers.write(pod.index, environment, each))
                await _kill(rig, operator, gateway, writers, size, total=each * count)
            seconds = time.monotonic() - begun
            if not await seen.all_ended(1, within=120):
                result.faults.append(f"the run does not end; the operator's log ends:\n{operator.tail()}")
            lost = await _lost(rig, result, uid, writers)
            result.add("checkpoints acknowledged", writers.total, "")
            result.add("kills meanwhile", size.kills, "")
            result.add("all acknowledged after", seconds, "s")
            result.add("runs with one lost or out of order", lost, "", budget=budgets.NEVER)
            await _compare(rig, result, namespace, received)


async def _kill(
    rig: Rig, operator: Service, gateway: Service, writers: Writers, size: Size, *, total: int
) -> None:
    """Kill one process after the other, while checkpoints are left to write."""
    victims = itertools.cycle(("operator", "gateway", "nats", "postgres"))
    for number, victim in zip(range(size.kills), victims, strict=False):
        await writers.until_total((number + 1) * total // (size.kills + 1))
        say(f"kill -9 {victim}")
        if victim == "nats":
            await rig.nats.restart()
        elif victim == "postgres":
            rig.postgres.kill()
            await rig.postgres.start_soon()
        else:
            service = operator if victim == "operator" else gateway
            await service.kill()
            await service.start()


async def _lost(rig: Rig, result: Result, uid: str, writers: Writers) -> int:
    """1 if any of them is; which, is a fault of the result."""
    try:
        await check_ledger(rig.ledger_url, uid, writers)
    except AssertionError as error:
        result.faults.append(f"the ledger: {error}")
        return 1
    return 0


async def _compare(rig: Rig, result: Result, namespace: str, received: list[str]) -> None:
    """Compare the ledger with the stream, with the events at a live client, and with the refilled stream."""
    expected = await stream.events_of(rig.ledger_url, namespace)
    lies = stream.compare(
        expected, await stream.read(rig.nats.url, namespace, expected=expected, within=_PUBLISHED)
    )
    with contextlib.suppress(TimeoutError):
        await until(lambda: expected <= set(received), within=_PUBLISHED)
    came = stream.compare(expected, received)
    say("JetStream's store is deleted")
    await rig.nats.kill()
    rig.nats.lose_store()
    await rig.nats.start()
    refilled = stream.compare(
        expected, await stream.read(rig.nats.url, namespace, expected=expected, within=_PUBLISHED)
    )
    result.add("events in the ledger", len(expected), "")
    for where, found in (("stream", lies), ("live client", came), ("refilled stream", refilled)):
        missing = len(found.missing)
        result.add(f"events missing in the {where}", missing, "", budget=budgets.NEVER)
        if missing:
            result.faults.append(f"{where}: {missing} events never came, such as {min(found.missing)}")
    result.add("runs out of order in the stream", len(lies.disordered), "", budget=budgets.NEVER)
    result.add("repeated messages in the stream, by their id", lies.repeated, "")
    result.add("repeated messages at the live client, by their id", came.repeated, "")
    if lies.disordered:
        result.faults.append(f"out of order in the stream: {sorted(lies.disordered)}")


@asynccontextmanager
async def _client(rig: Rig, namespace: str, received: list[str]) -> AsyncIterator[None]:
    """A consumer as users write one: durable, acknowledging, and connected from the start."""
    client = await nats.connect(
        rig.nats.url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=_quiet
    )

    async def work() -> None:
        consumer = await client.jetstream().pull_subscribe(
            f"{subjects.PREFIX}.{namespace}.>", durable=f"bench-{namespace}"
        )
        while True:
            messages: list[Msg] = []
            # A process that is away returns; messages without acknowledgement are sent again.
            with contextlib.suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
                messages = await consumer.fetch(500, timeout=1)
            for message in messages:
                received.append(cloudevents.decode(message.data).id)
                with contextlib.suppress(nats.errors.Error):
                    await message.ack()
            if not messages:
                await asyncio.sleep(0.05)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        with contextlib.suppress(nats.errors.Error):
            await client.close()
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


async def _quiet(error: Exception) -> None:
    """Outages are what this is about."""


SCENARIO = Scenario(
    name="B13",
    title="durability: everything killed in turn",
    full=Size(),
    small=Size(checkpoints=400, kills=4),
    run=run,
    seconds=lambda size: 60 + size.checkpoints / 400 + size.kills * 5,
)
