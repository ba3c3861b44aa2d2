"""One seed from its start until everything has come to rest."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from tests.fakes.clock import VirtualLoop, take_apart
from tests.simulated.storm.chaos import Chaos
from tests.simulated.storm.oddities import has_oddities
from tests.simulated.storm.senders import has_signals
from tests.simulated.storm.workloads import WORKLOADS
from tests.simulated.storm.world import StormWorld

#: Virtual seconds after the faults within which every run must end, and nothing be left over.
PATIENCE: Final = 1800.0
#: Virtual seconds until the pods of a paused run have left, and for which it is watched.
TO_PAUSE: Final = 400.0
REST: Final = 60.0
#: Virtual seconds between two checks of that.
POLL: Final = 2.5


@dataclass(slots=True)
class Outcome:
    """The result of a seed."""

    seed: int
    #: The first guarantee that was broken; None if all held.
    violation: str | None = None
    #: Of everything that was written, in its order.
    digest: str = ""
    #: How much was tried.
    counts: Counter[str] = field(default_factory=Counter)


def simulate(seed: int, trace: Callable[[str], None] | None = None) -> Outcome:
    """Run a world. The same seed gives the same outcome, to the last event.

    `trace` receives a line for every event, for people who search for a cause.
    """
    # Jitter in the product.
    random.seed(seed)
    loop = VirtualLoop()
    outcome = Outcome(seed)
    broken: list[str] = []
    loop.set_exception_handler(lambda _, context: broken.append(_describe(context)))
    logging_before = structlog.get_config()
    structlog.configure(
        processors=[_Listener(broken)], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    asyncio.set_event_loop(loop)
    with warnings.catch_warnings():
        # Coroutines may be killed before their first instruction.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        try:
            loop.run_until_complete(_live(seed, outcome, broken, trace))
        finally:
            take_apart(loop)
            structlog.configure(**logging_before)
            asyncio.set_event_loop(None)
    return outcome


async def _live(seed: int, outcome: Outcome, broken: list[str], trace: Callable[[str], None] | None) -> None:
    world = StormWorld(seed, trace=trace)
    faults, guarantees = world.faults, world.guarantees
    for _ in range(2 if world.leases else 1):
        world.start_operator()
    for number in range(faults.choice([1, 1, 2])):
        workload = faults.choice(WORKLOADS)
        if has_signals(seed):
            workload = world.senders.workload() or workload
        world.apply_workload(f"run-{number}", workload)
    if has_oddities(seed):
        world.nodes.start(world.oddities.run())
    await Chaos(world).run(faults.between(15.0, 90.0))
    guarantees.note("*** faults end")
    world.quiesce()
    try:
        await _come_to_rest(world, broken)
    finally:
        for operator in world.operators + world.removed:
            task = operator.task
            if task is not None and task.done() and not task.cancelled() and task.exception() is not None:
                broken.append(f"{operator.name} ended with {task.exception()!r}")
        if broken:
            guarantees.broken(broken[0])
        outcome.violation = guarantees.violation
        outcome.counts = guarantees.counts
        outcome.digest = _digest(world)


async def _come_to_rest(world: StormWorld, broken: list[str]) -> None:
    """Check that paused runs stay paused, then that all runs end and nothing is left over."""
    guarantees = world.guarantees

    async def until(done: Callable[[], bool], seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while not done():
            if guarantees.violation or broken or asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(POLL)
        return True

    paused = world.paused()
    resting = await until(lambda: all(world.rests(run) for run in paused), TO_PAUSE)
    guarantees.demand(resting, "a paused run does not come to rest")
    if paused:
        known = [guarantees.runs[run.uid] for run in paused if run.uid in guarantees.runs]
        # The next relist finds what ended before the pause and whose event was lost.
        await asyncio.sleep(REST)
        made = [run.sequence for run in known]
        await asyncio.sleep(REST)
        rests = made == [run.sequence for run in known] and all(world.rests(run) for run in paused)
        guarantees.demand(rests, "a paused run goes on")
    guarantees.note("*** all are resumed")
    for run in world.paused():
        world.api.desire(run.workload.kind, run.name, "Running")
    world.senders.release()
    ended = await until(lambda: not world.unfinished(), PATIENCE)
    guarantees.demand(ended, f"these do not end: {world.unfinished()}")
    if ended:
        world.check_results()
        await world.senders.check_refusals()
        tidy = await until(lambda: not world.strays() and not world.ledger.outbox, PATIENCE)
        guarantees.demand(tidy, f"left over: {world.strays()}, {len(world.ledger.outbox)} events to publish")


def _digest(world: StormWorld) -> str:
    written = hashlib.sha256()
    for uid, model in world.guarantees.runs.items():
        rows = world.ledger.rows.get(uid)
        events = [] if rows is None else rows.events
        written.update(repr((uid, model.run, model.tasks, model.attempts, events)).encode())
    written.update(repr(sorted(world.guarantees.counts.items())).encode())
    return written.hexdigest()


class _Listener:
    """Records what the operator logs as a defect of its own."""

    def __init__(self, broken: list[str]) -> None:
        self._broken = broken

    def __call__(self, logger: Any, method: str, event: Any) -> Any:
        if event.get("exc_info"):
            self._broken.append(f"{event.get('event')}: {sys.exc_info()[1]!r}")
        raise structlog.DropEvent


def _describe(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
