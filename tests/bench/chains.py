"""What the watcher saw of chains: how long each hop took, and whether all came out right."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from perdure.domain.names import LABEL_STEP, LABEL_WORKFLOW
from tests.bench.cluster import Api
from tests.bench.watch import Watch

_ENDED = frozenset({"Succeeded", "Failed"})
_TERMINAL = frozenset({"Succeeded", "Failed", "Cancelled"})


@dataclass(slots=True)
class PodSeen:
    """One pod. Times are monotonic seconds."""

    name: str
    workflow: str
    step: str
    created: float
    ended: float | None = None


@dataclass(slots=True)
class RunSeen:
    """One Workflow."""

    created: float
    phase: str = ""
    ended: float | None = None


class Chains:
    """Watches the pods and Workflows of one namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        #: By uid.
        self.pods: dict[str, PodSeen] = {}
        self.runs: dict[str, RunSeen] = {}
        self._pods = Watch(api, f"/api/v1/namespaces/{namespace}/pods", self._note_pod)
        self.workflows = Watch(
            api, f"/apis/perdure.dev/v1alpha1/namespaces/{namespace}/workflows", self._note_run
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._pods)
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
        return await self._pods.until(
            lambda: sum(pod.ended is not None for pod in self.pods.values()) >= count, within=within
        )

    async def pods_created(self, count: int, *, within: float) -> bool:
        """Wait until so many pods exist."""
        return await self._pods.until(lambda: len(self.pods) >= count, within=within)

    async def no_pod_runs(self, *, within: float) -> bool:
        """Wait until every pod there is has ended."""
        return await self._pods.until(
            lambda: all(pod.ended is not None for pod in self.pods.values()), within=within
        )

    def ended(self) -> int:
        """Workflows that have ended."""
        return sum(run.ended is not None for run in self.runs.values())

    def of(self, workflow: str) -> list[PodSeen]:
        """The pods of a Workflow in the order of its steps."""
        return sorted((pod for pod in self.pods.values() if pod.workflow == workflow), key=lambda p: p.step)

    def gaps(self) -> list[float]:
        """Seconds from a step's pod having ended to the next step's pod being there, for every hop."""
        gaps = []
        by_run: dict[str, list[PodSeen]] = {}
        for pod in self.pods.values():
            by_run.setdefault(pod.workflow, []).append(pod)
        for pods in by_run.values():
            pods.sort(key=lambda pod: pod.step)
            for before, after in itertools.pairwise(pods):
                if before.ended is not None and before.step != after.step:
                    gaps.append(after.created - before.ended)
        return gaps

    def last_end(self) -> float:
        """When the last Workflow ended."""
        return max(run.ended for run in self.runs.values() if run.ended is not None)

    def faults(self, names: Sequence[str], *, steps: int) -> list[str]:
        """What did not come out right, of chains that must succeed with one pod for every step."""
        faults = []
        made = Counter((pod.workflow, pod.step) for pod in self.pods.values())
        for name in names:
            run = self.runs.get(name)
            if run is None or run.phase != "Succeeded":
                faults.append(f"{name} did not succeed: {run.phase or 'Pending' if run else 'never seen'}")
            missing = steps - len({step for workflow, step in made if workflow == name})
            if missing:
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
        if kind == "DELETED" or LABEL_WORKFLOW not in labels:
            return
        seen = self.pods.get(metadata["uid"])
        if seen is None:
            seen = PodSeen(metadata["name"], labels[LABEL_WORKFLOW], labels[LABEL_STEP], at)
            self.pods[metadata["uid"]] = seen
        if seen.ended is None and pod["status"].get("phase") in _ENDED:
            seen.ended = at

    def _note_run(self, kind: str, workflow: dict[str, Any], at: float) -> None:
        if kind == "DELETED":
            return
        seen = self.runs.setdefault(workflow["metadata"]["name"], RunSeen(at))
        seen.phase = (workflow.get("status") or {}).get("phase", "")
        if seen.ended is None and seen.phase in _TERMINAL:
            seen.ended = at
