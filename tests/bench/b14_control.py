"""B14: how soon a person's word is done: cancel, pause, resume; and how soon a failed step is tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import budgets
from tests.bench.agents import held
from tests.bench.chains import Chains
from tests.bench.figures import Result
from tests.bench.load import apply_all, patience, slow_chain
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario

_WIDE = "wide"
#: What each pod of a chain takes that is paused: long enough that it is paused in the middle of one.
_POD = "0.2s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    #: Runs that are cancelled, paused and resumed, and tried again, one at a time.
    runs: int = 200
    #: Tasks that run meanwhile, and are then cancelled all at once.
    tasks: int = 500


class NothingCame(Exception):
    """An expected change did not happen in time; the text names the change."""


async def run(rig: Rig, size: Size, result: Result) -> None:
    """Control of small runs next to one run with many running tasks, which is cancelled last."""
    async with (
        rig.operator() as operator,
        rig.namespace("b14", keep=True) as namespace,
        Chains(rig.api, namespace) as seen,
    ):
        control = _Control(rig, seen, namespace)
        try:
            say(f"{size.tasks} tasks start")
            await rig.kube.create("Workflow", namespace, held(_WIDE, tasks=size.tasks))
            await control.wait(lambda: control.running(_WIDE) >= size.tasks, "not all tasks run")
            for number in range(size.runs):
                if number % 50 == 0:
                    say(f"run {number + 1} of {size.runs}")
                await control.cancel(f"cancelled-{number:04d}")
                await control.pause(f"paused-{number:04d}")
                await control.retry(f"again-{number:04d}")
            say(f"{size.tasks} tasks are cancelled")
            seconds = await control.cancel_wide(size.tasks)
        except NothingCame as error:
            result.faults.append(f"{error}; the operator's log ends:\n{operator.tail()}")
            return
    control.into(result)
    budget = budgets.CANCEL_ALL_SECONDS if size.tasks >= 500 else None
    result.add(f"cancel → {size.tasks} pods gone and phase Cancelled", seconds, "s", budget=budget)


class _Control:
    """Does one thing at a time and notes what the watcher sees of it."""

    def __init__(self, rig: Rig, seen: Chains, namespace: str) -> None:
        self._rig, self._seen, self._namespace = rig, seen, namespace
        self._deleted: list[float] = []
        self._cancelled: list[float] = []
        self._paused: list[float] = []
        self._resumed: list[float] = []
        self._again: list[float] = []
        self._after_pause = 0

    def running(self, name: str) -> int:
        """Pods of a Workflow that run."""
        return sum(pod.running is not None and pod.workflow == name for pod in self._seen.pods.values())

    async def wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait for a condition, checked after each event of a pod or Workflow. Raises NothingCame."""
        watches = (self._seen.watch, self._seen.workflows)
        waiting = [
            asyncio.create_task(watch.until(condition, within=patience(len(self._seen.pods) + 1)))
            for watch in watches
        ]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not all(task.result() for task in done):
                raise NothingCame(otherwise)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    async def cancel(self, name: str) -> None:
        """A run whose only pod runs."""
        await apply_all(self._rig.kube, self._namespace, [slow_chain(name, steps=1, how="hang")])
        await self.wait(lambda: self.running(name) == 1, f"{name} does not run")
        (pod,) = self._seen.of(name)
        at = await self._want(name, "Cancelled")
        run_seen = self._seen.runs[name]
        await self.wait(
            lambda: pod.leaving is not None and "Cancelled" in run_seen.phases, f"{name} is not cancelled"
        )
        assert pod.leaving is not None
        self._deleted.append(pod.leaving - at)
        self._cancelled.append(run_seen.phases["Cancelled"] - at)

    async def pause(self, name: str) -> None:
        """A chain, paused in the middle of a step, and resumed."""
        await apply_all(self._rig.kube, self._namespace, [slow_chain(name, steps=3, how=_POD)])
        await self.wait(lambda: self.running(name) >= 1, f"{name} does not run")
        at = await self._want(name, "Paused")
        run_seen = self._seen.runs[name]
        await self.wait(lambda: "Paused" in run_seen.phases, f"{name} is not paused")
        paused = run_seen.phases["Paused"]
        self._paused.append(paused - at)
        # Longer than a step takes: one that started in spite of the pause would show.
        await asyncio.sleep(0.5)
        self._after_pause += sum(pod.created > paused for pod in self._seen.of(name))
        before = len(self._seen.of(name))
        at = await self._want(name, "Running")
        await self.wait(lambda: len(self._seen.of(name)) > before, f"{name} does not go on")
        self._resumed.append(min(pod.created for pod in self._seen.of(name) if pod.created > at) - at)
        await self.wait(lambda: run_seen.ended is not None, f"{name} does not end")

    async def retry(self, name: str) -> None:
        """A step that fails once and may be tried again at once."""
        manifest = slow_chain(name, steps=1, how="fail-once")
        manifest["spec"]["defaults"]["retry"] = {"limit": 1, "backoff": {"initial": "0s", "jitter": 0}}
        await apply_all(self._rig.kube, self._namespace, [manifest])
        await self.wait(lambda: len(self._seen.of(name)) == 2, f"{name} is not tried again")
        first, second = sorted(self._seen.of(name), key=lambda pod: pod.attempt)
        assert first.ended is not None
        self._again.append(second.created - first.ended)

    async def cancel_wide(self, tasks: int) -> float:
        """Seconds until nothing of the wide run is left to be stopped."""
        pods = [pod for pod in self._seen.pods.values() if pod.workflow == _WIDE]
        assert len(pods) == tasks
        at = await self._want(_WIDE, "Cancelled")
        run_seen = self._seen.runs[_WIDE]
        await self.wait(
            lambda: run_seen.ended is not None and all(pod.leaving is not None for pod in pods),
            f"{_WIDE} is not cancelled",
        )
        assert run_seen.ended is not None
        return max(run_seen.ended, *(pod.leaving or 0.0 for pod in pods)) - at

    def into(self, result: Result) -> None:
        result.add_samples(
            "cancel → pod's deletion seen",
            self._deleted,
            p50=budgets.CANCEL_P50,
            p99=budgets.CANCEL_P99,
        )
        result.add_samples("cancel → phase Cancelled", self._cancelled)
        result.add_samples("pause → phase Paused", self._paused)
        result.add("pods created after a pause was shown", self._after_pause, "", budget=budgets.NEVER)
        if self._after_pause:
            result.faults.append(f"{self._after_pause} pods were created in paused runs")
        result.add_samples("resume → next pod created", self._resumed)
        result.add_samples("pod failed → next attempt's pod created", self._again)

    async def _want(self, name: str, state: str) -> float:
        at = time.monotonic()
        await self._rig.kube.patch("Workflow", self._namespace, name, {"spec": {"desiredState": state}})
        return at


SCENARIO = Scenario(
    name="B14",
    title="control: cancel, pause, resume, retry",
    full=Size(),
    small=Size(runs=2, tasks=5),
    run=run,
    seconds=lambda size: 30 + size.tasks / 20 + size.runs * 2.5,
)
