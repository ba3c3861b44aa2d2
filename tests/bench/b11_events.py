"""B11: from a commit in the ledger to the event at a consumer: of JetStream, and at followers of a run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy

from perdure.bus import cloudevents, subjects
from perdure.bus.connection import Bus
from perdure.bus.follow import follow
from perdure.ledger import AgentSession, Ledger
from tests.bench import budgets
from tests.bench.agents import save_to_ledger, session_of, start_held
from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario
from tests.support.waiting import until

#: A checkpoint: the task's name, and its number.
Key = tuple[str, int]
#: Runs that have events.
_RUNS = 20
_DATA = b"x" * 1024
_WITHIN = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Committed in all, and so many a second.
    events: int = 5000
    rate: int = 200
    #: Followers at once in the second part; the first has one.
    clients: int = 50


@dataclass(slots=True)
class Seen:
    """When each checkpoint was committed, and when its event came to each listener. Monotonic seconds."""

    committed: dict[Key, float] = field(default_factory=dict)
    arrived: dict[str, list[tuple[Key, float]]] = field(default_factory=dict)

    def note(self, listener: str, task: str | None, sequence: object) -> None:
        """An event has come."""
        at = time.monotonic()
        assert isinstance(sequence, int)
        self.arrived.setdefault(listener, []).append(((task or "", sequence), at))

    def delays(self, listener: str) -> list[float]:
        """Seconds from the commit being known to its writer until the event was there."""
        return [
            at - self.committed[key] for key, at in self.arrived.get(listener, ()) if key in self.committed
        ]


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Checkpoints written straight to the ledger are the commits: their writer knows when they last."""
    result.notes.append("SSE, WebSocket and webhooks are not measured: there is no HTTP API for people yet.")
    async with (
        rig.operator(),
        rig.namespace("b11", keep=True) as namespace,
        Ledger(rig.ledger_url) as ledger,
    ):
        async with Chains(rig.api, namespace) as chains:
            pods = await start_held(rig, namespace, chains, runs=min(_RUNS, size.clients), tasks=1)
        sessions = [await session_of(ledger, namespace, uid) for uid in pods]
        for clients in (1, size.clients):
            say(f"{size.events} events, {clients} followers")
            await _part(rig, result, ledger, namespace, sessions, size, clients)


async def _part(
    rig: Rig,
    result: Result,
    ledger: Ledger,
    namespace: str,
    sessions: list[AgentSession],
    size: Size,
    clients: int,
) -> None:
    seen = Seen()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_jetstream(rig, namespace, seen))
        for number in range(clients):
            name = sessions[number % len(sessions)].run_name
            await stack.enter_async_context(_follower(rig, ledger, namespace, name, seen))
        first = sessions[0].run_name
        await stack.enter_async_context(_command(rig, ledger, namespace, first, seen))
        await _write(ledger, sessions, seen, count=size.events, rate=size.rate)
        of_first = sum(task.startswith(f"{first}-") for task, _ in seen.committed)
        per_run = size.events // len(sessions)
        expected = {
            "JetStream": len(seen.committed),
            "follower": per_run * clients,
            "command": of_first,
        }
        for listener, count in expected.items():
            try:
                await until(
                    lambda listener=listener, count=count: len(seen.delays(listener)) >= count,  # type: ignore[misc]
                    within=_WITHIN,
                )
            except TimeoutError:
                got = len(seen.delays(listener))
                result.faults.append(f"{clients} followers: {listener} got {got} of {count} events")
    label = f"{clients} following"
    result.add_samples(
        f"commit → JetStream consumer, {label}",
        seen.delays("JetStream"),
        p50=budgets.EVENT_P50,
        p99=budgets.EVENT_P99,
    )
    result.add_samples(
        f"commit → follower, {label}",
        seen.delays("follower"),
        p50=budgets.EVENT_P50,
        p99=budgets.EVENT_P99,
    )
    result.add_samples(f"commit → line of `perdure events --follow`, {label}", seen.delays("command"))


async def _write(
    ledger: Ledger, sessions: list[AgentSession], seen: Seen, *, count: int, rate: float
) -> None:
    """Commit the same number of events for each run, in turn, at the rate."""

    async def one(session: AgentSession) -> None:
        sequence = await save_to_ledger(ledger, session, _DATA)
        seen.committed[session.task_name, sequence] = time.monotonic()

    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count - count % len(sessions)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            group.create_task(one(sessions[number % len(sessions)]))


@asynccontextmanager
async def _jetstream(rig: Rig, namespace: str, seen: Seen) -> AsyncIterator[None]:
    client = await nats.connect(rig.nats.url)
    try:

        async def take(message: Msg) -> None:
            event = cloudevents.decode(message.data)
            if event.type == "task.checkpointed":
                seen.note("JetStream", event.task, event.data["sequence"])

        await client.jetstream().subscribe(
            f"{subjects.PREFIX}.{namespace}.>",
            ordered_consumer=True,
            cb=take,
            deliver_policy=DeliverPolicy.NEW,
        )
        await client.flush()
        yield
    finally:
        await client.close()


@asynccontextmanager
async def _follower(rig: Rig, ledger: Ledger, namespace: str, name: str, seen: Seen) -> AsyncIterator[None]:
    """Followers as in `perdure events --follow` and streams to browsers, in this process."""
    run = await ledger.find_run(namespace, name)
    assert run is not None
    events = await ledger.events(run.uid, limit=100_000)
    # Until it has taken up what there is, so that it lives from what is published.
    ready = asyncio.Event()

    async def work() -> None:
        async with Bus(rig.nats.url, name="bench") as bus:
            following = follow(ledger, run, after=len(events) - 1, bus=bus, notice=lambda text: None)
            async with contextlib.aclosing(following):
                async for event in following:
                    if event.type == "task.checkpointed":
                        seen.note("follower", event.task, event.data["sequence"])
                    ready.set()

    task = asyncio.create_task(work())
    try:
        async with asyncio.timeout(_WITHIN):
            await ready.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def _command(rig: Rig, ledger: Ledger, namespace: str, name: str, seen: Seen) -> AsyncIterator[None]:
    """The command itself, in a process of its own."""
    run = await ledger.find_run(namespace, name)
    assert run is not None
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("perdure")),
        *("events", f"{namespace}/{name}", "--follow", "--output", "json"),
        *("--after", str(len(await ledger.events(run.uid, limit=100_000)) - 1)),
        env={**os.environ, "PERDURE_DATABASE_URL": rig.ledger_url, "PERDURE_NATS_URL": rig.nats.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    ready = asyncio.Event()

    async def work(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            event = cloudevents.decode(line)
            if event.type == "task.checkpointed":
                seen.note("command", event.task, event.data["sequence"])
            ready.set()

    task = asyncio.create_task(work(process.stdout))
    try:
        async with asyncio.timeout(_WITHIN):
            await ready.wait()
        yield
    finally:
        task.cancel()
        process.kill()
        await process.wait()
        await asyncio.wait({task})


SCENARIO = Scenario(
    name="B11",
    title="commit → event",
    full=Size(),
    small=Size(events=40, rate=20, clients=2),
    run=run,
    seconds=lambda size: 40 + 2 * size.events / size.rate,
)
