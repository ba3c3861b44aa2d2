"""The senders of signals: people and services that send what the echo tasks of a run wait for.

Senders have a source of chance of their own, and only some seeds have senders. The history of every other
seed is the same as in a world without signals.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from perdure.domain.phases import Phase
from perdure.domain.records import LedgerUnavailable, Signal, TaskKey
from perdure.ledger.types import RunEnded, UnknownRun
from tests.fakes.clock import now
from tests.simulated.storm.workloads import ECHOES, Workload

if TYPE_CHECKING:
    from tests.fakes.world import World

#: A divisor and the remainders of the seeds with senders: about one in four. The seeds in `FAILED_ONCE` and
#: those of the mutations that are older than signals have other remainders, so their histories stay the same.
_WITH_SIGNALS: Final = (13, {3, 5, 12})
#: Seconds until a sender tries again.
RETRY: Final = 1.0
#: Seconds for which a sender waits for a pause of the run.
UNTIL_PAUSED: Final = 60.0


def has_signals(seed: int) -> bool:
    """Whether the world of a seed has senders and echo tasks."""
    divisor, remainders = _WITH_SIGNALS
    return seed % divisor in remainders


class Senders:
    """Sends each echo task the signal of its name, and signals that no task waits for."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = random.Random(f"signals of {seed}")
        self._may_send = asyncio.Event()
        self._may_send.set()
        #: Signals that were acknowledged, with their runs.
        self._acknowledged: list[tuple[str, Signal]] = []

    def workload(self) -> Workload | None:
        """A workload with echo tasks; None for one without."""
        return self._random.choice(ECHOES) if self._random.random() < 0.8 else None

    def hold(self) -> None:
        """Send nothing for now: a paused run that receives signals goes on."""
        self._may_send.clear()

    def release(self) -> None:
        self._may_send.set()

    def send(self, uid: str, names: Mapping[TaskKey, str]) -> None:
        """Send a run its signals, at moments that the seed decides."""
        draw = self._random
        for key, name in names.items():
            if draw.random() < 0.3:
                self._start(uid, key, "other", "wrong name")
            if draw.random() < 0.2:
                self._start(uid, TaskKey("nowhere"), name, f"wrong task {key.step} {key.index}")
            for number in range(draw.choice([1, 1, 2, 3])):
                self._start(uid, key, name, str(number))

    def _start(self, uid: str, key: TaskKey, name: str, label: str) -> None:
        draw = self._random
        id = f"{key.step}/{key.index}/{name}/{label}"
        payload = {"run": uid, "id": id}
        signal = Signal(id=id, key=key, name=name, payload=payload, sender="ada", at=now())
        delay = draw.choice([0.0, 2.0, 20.0, 90.0]) * draw.random()
        repeats = [delay_ * draw.random() for delay_ in draw.choice([[], [], [0.0], [30.0, 30.0]])]
        when_paused = draw.random() < 0.3
        self._world.nodes.start(self._sender(uid, signal, delay, repeats, when_paused=when_paused))

    async def _sender(
        self, uid: str, signal: Signal, delay: float, repeats: list[float], *, when_paused: bool
    ) -> None:
        await asyncio.sleep(delay)
        if when_paused:
            await self._until_paused(uid)
        if not await self._deliver(uid, signal):
            return
        self._acknowledged.append((uid, signal))
        for seconds in repeats:
            # The sender did not record that the signal was acknowledged.
            await asyncio.sleep(seconds)
            await self._deliver(uid, signal)

    async def _until_paused(self, uid: str) -> None:
        deadline = asyncio.get_running_loop().time() + UNTIL_PAUSED
        while asyncio.get_running_loop().time() < deadline:
            model = self._world.guarantees.runs.get(uid)
            if model is not None and model.run.phase is Phase.PAUSED:
                return
            await asyncio.sleep(RETRY)

    async def _deliver(self, uid: str, signal: Signal) -> bool:
        """Send a signal until it is acknowledged; False if it is refused. The id stays the same."""
        world = self._world
        while True:
            await self._may_send.wait()
            try:
                await world.ledger.call(lambda: world.ledger.send_signal(uid, signal))
                return True
            except RunEnded:
                self._refused(uid, signal)
                return False
            except UnknownRun:
                if uid in world.ledger.forgotten:
                    return False
            except LedgerUnavailable:
                world.guarantees.counts["signals sent again"] += 1
            await asyncio.sleep(RETRY)

    def _refused(self, uid: str, signal: Signal) -> None:
        guarantees = self._world.guarantees
        guarantees.counts["signals refused"] += 1
        ended = guarantees.runs[uid].run.phase.terminal
        guarantees.demand(ended, f"signal {signal.id} of the live run {uid} was refused")

    async def check_refusals(self) -> None:
        """Check that every run that has ended refuses a new signal, and knows those that it acknowledged."""
        world = self._world
        demand = world.guarantees.demand
        for uid, model in list(world.guarantees.runs.items()):
            if not model.signals or uid not in world.ledger.rows:
                continue
            late = Signal(id="late", key=TaskKey("e"), name="go", payload="late", sender="ada", at=now())
            demand(await self._answer(uid, late) == "refused", f"{uid} took a signal after its end")
        for uid, signal in self._acknowledged:
            if uid in world.ledger.rows:
                answer = await self._answer(uid, signal)
                demand(answer == "known", f"{uid} {answer} signal {signal.id}, which it had acknowledged")

    async def _answer(self, uid: str, signal: Signal) -> Any:
        world = self._world
        try:
            new = await world.ledger.call(lambda: world.ledger.send_signal(uid, signal))
        except RunEnded:
            self._refused(uid, signal)
            return "refused"
        except UnknownRun:
            return "forgot the run of"
        return "accepted" if new else "known"
