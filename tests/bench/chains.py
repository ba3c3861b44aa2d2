"""Chains as the watcher observed them: the time of each hop, and the faults."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson

from perdure.domain.names import LABEL_ATTEMPT, LABEL_INDEX, LABEL_STEP, LABEL_WORKFLOW
from perdure.domain.records import NO_INDEX
from tests.bench.cluster import Api
from tests.bench.watch import Watch

_ENDED = frozenset({"Succeeded", "Failed"})
_TERMINAL = frozenset({"Succeeded", "Failed", "Cancelled"})


@dataclass(slots=True)
class PodSeen:
    """A pod. Times are monotonic seconds."""

    name: str
    workflow: str
    step: str
    created: float
    attempt: int = 1
    #: The index of its item, in a step with `forEach`; -1 in others.
    index: int = NO_INDEX
    running: float | None = None
    ended: float | None = None
    #: When its deletion was asked for, and when it was gone.
    leaving: float | None = None
    gone: float | None = None


@dataclass(slots=True)
class RunSeen:
    """A Workflow."""

    created: float
    phase: str = ""
    #: When each phase was first seen.
    phases: dict[str, float] = field(default_factory=dict)
    ended: float | None = None
    #: Bytes of the largest status, as compact JSON.
    status_bytes: int = 0


class Chains:
    """Watches the pods and Workflows of one namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        #: By uid.
        self.pods: dict[str, PodSeen] = {}
        self.runs: dict[str, RunSeen] = {}
        # Counted as they come: there are thousands, and the conditions below are asked at every event.
        self._pods_ended = 0
        self._runs_ended = 0
        self.watch = Watch(api, f"/api/v1/namespaces/{namespace}/pods", self._note_pod)
        self.workflows = Watch(
            api, f"/apis/perdure.dev/v1alpha1/namespaces/{namespace}/workflows", self._note_run
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.watch)
        await self._stack.enter_async_context(self.workflows)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def all_ended(self, count: int, *, within: float) -> bool:
        """Wait until so many Workflows have ended."""
        return await self.workflows.until(lambda: self.ended() >= count, within=within)

    async def pods_ended(self, count: int, *, within: float) -> bool:
        """Wait until so many pods have ended."""
        return await self.watch.until(lambda: self._pods_ended >= count, within=within)

    async def pods_created(self, count: int, *, within: float) -> bool:
        """Wait until so many pods exist."""
        return await self.watch.until(lambda: len(self.pods) >= count, within=within)

    async def no_pod_runs(self, *, within: float) -> bool:
        """Wait until every pod there is has ended."""
        return await self.watch.until(lambda: self._pods_ended == len(self.pods), within=within)

    async def all_in(self, phase: str, names: Collection[str], *, within: float) -> bool:
        """Wait until each of these Workflows is, or was, in that phase."""
        return await self.workflows.until(
            lambda: all(name in self.runs and phase in self.runs[name].phases for name in names),
            within=within,
        )

    def ended(self) -> int:
        """Workflows that have ended."""
        return self._runs_ended

    def first_pods(self) -> dict[str, PodSeen]:
        """The first pod of each Workflow."""
        first: dict[str, PodSeen] = {}
        for pod in self.pods.values():
            first.setdefault(pod.workflow, pod)
        return first

    def of(self, workflow: str) -> list[PodSeen]:
        """The pods of a Workflow in the order of its steps."""
        return sorted((pod for pod in self.pods.values() if pod.workflow == workflow), key=lambda p: p.step)

    def gaps(self) -> list[float]:
        """Seconds from a step's pod having ended to the next step's pod being there, for every hop."""
        by_run: dict[str, list[PodSeen]] = {}
        for pod in self.pods.values():
            by_run.setdefault(pod.workflow, []).append(pod)
        return [gap for pods in by_run.values() for gap in _gaps(pods)]

    def gaps_of(self, workflow: str) -> list[float]:
        """The gaps of one chain."""
        return _gaps(self.of(workflow))

    def due(self, pod: PodSeen) -> float:
        """When a chain's pod could be made: its predecessor had ended, or else the Workflow was there."""
        before = [other for other in self.of(pod.workflow) if other.step < pod.step]
        if before and before[-1].ended is not None:
            return before[-1].ended
        return self.runs[pod.workflow].created

    def last_end(self) -> float:
        """When the last Workflow ended."""
        return max(run.ended for run in self.runs.values() if run.ended is not None)

    def faults(self, names: Sequence[str], *, steps: int) -> list[str]:
        """The faults of chains that must succeed with one pod for every step."""
        faults = []
        made = Counter((pod.workflow, pod.step) for pod in self.pods.values())
        different = Counter(workflow for workflow, _ in made)
        for name in names:
            run = self.runs.get(name)
            if run is None or run.phase != "Succeeded":
                faults.append(f"{name} did not succeed: {run.phase or 'Pending' if run else 'never seen'}")
            if missing := steps - different[name]:
                faults.append(f"{name}: {missing} of {steps} steps had no pod")
        faults += [
            f"{workflow}: step {step} had {count} pods"
            for (workflow, step), count in made.items()
            if count > 1
        ]
        return faults

    def _note_pod(self, kind: str, pod: dict[str, Any], at: float) -> None:
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        if LABEL_WORKFLOW not in labels:
            return
        seen = self.pods.get(metadata["uid"])
        if seen is None:
            seen = PodSeen(
                metadata["name"],
                labels[LABEL_WORKFLOW],
                labels[LABEL_STEP],
                at,
                int(labels.get(LABEL_ATTEMPT, "1")),
                int(labels.get(LABEL_INDEX, NO_INDEX)),
            )
            self.pods[metadata["uid"]] = seen
        if kind == "DELETED":
            seen.gone = at
        if seen.leaving is None and (kind == "DELETED" or "deletionTimestamp" in metadata):
            seen.leaving = at
        phase = pod["status"].get("phase")
        if seen.running is None and phase == "Running":
            seen.running = at
        if seen.ended is None and phase in _ENDED:
            seen.ended = at
            self._pods_ended += 1

    def _note_run(self, kind: str, workflow: dict[str, Any], at: float) -> None:
        if kind == "DELETED":
            return
        status = workflow.get("status") or {}
        seen = self.runs.setdefault(workflow["metadata"]["name"], RunSeen(at))
        seen.phase = status.get("phase", "")
        seen.phases.setdefault(seen.phase, at)
        seen.status_bytes = max(seen.status_bytes, len(orjson.dumps(status)))
        if seen.ended is None and seen.phase in _TERMINAL:
            seen.ended = at
            self._runs_ended += 1


def _gaps(pods: list[PodSeen]) -> list[float]:
    ordered = sorted(pods, key=lambda pod: pod.step)
    return [
        after.created - before.ended
        for before, after in itertools.pairwise(ordered)
        if before.ended is not None and before.step != after.step
    ]
