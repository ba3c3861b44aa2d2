"""One Workflow with a large `forEach`, and a watcher that counts its objects in the cluster."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import orjson
from hack.cluster.kwok import OUTPUT

from perdure.api import API_VERSION
from perdure.domain.phases import TERMINAL
from tests.bench.cluster import Api
from tests.bench.watch import Watch

NAME = "wide"
_TERMINAL = frozenset(phase.value for phase in TERMINAL)


def fan_out(items: int, *, parallelism: int | None) -> dict[str, Any]:
    """A Workflow of `items` tasks whose outputs are `{"n": <index>}`, and one task after them all."""
    agent = {
        "image": "scale/instant:1",
        "env": [{"name": OUTPUT, "value": '{"n":${item}}'}],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": {"name": NAME},
        "spec": {
            "inputs": {"items": list(range(items))},
            **({} if parallelism is None else {"parallelism": parallelism}),
            "steps": [
                {"name": "each", "forEach": "${inputs.items}", "agent": agent},
                {
                    "name": "join",
                    "agent": {"image": "scale/instant:1"},
                    "input": {"count": "${size(steps.each.outputs)}"},
                },
            ],
            "outputs": {"all": "${steps.each.outputs}"},
        },
    }


class Bystander:
    """Watches the Workflow, its AgentTasks and its pods, and remembers the largest of what it saw."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.status: dict[str, Any] = {}
        #: Bytes of compact JSON.
        self.largest_status = 0
        #: Statuses of the Workflow that were seen.
        self.statuses = 0
        #: AgentTasks there are, by name, and whether their status says that they have ended.
        self.tasks: dict[str, bool] = {}
        self.most_ended_tasks = 0
        #: Uids of all pods that ever were, by name: two for one name is a pod that was made twice.
        self.pods: dict[str, set[str]] = {}
        base = f"/apis/perdure.dev/v1alpha1/namespaces/{namespace}"
        self._runs = Watch(api, f"{base}/workflows", self._note_run)
        self._tasks = Watch(api, f"{base}/agenttasks", self._note_task)
        self._pods = Watch(api, f"/api/v1/namespaces/{namespace}/pods", self._note_pod)
        self._ended_tasks = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for watch in (self._runs, self._tasks, self._pods):
            await self._stack.enter_async_context(watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def run_ended(self, *, within: float) -> bool:
        """Wait for the Workflow's status to be final."""
        return await self._runs.until(lambda: self.status.get("phase") in _TERMINAL, within=within)

    async def tasks_left(self, limit: int, *, within: float) -> bool:
        """Wait until no more than `limit` AgentTasks are there."""
        return await self._tasks.until(lambda: len(self.tasks) <= limit, within=within)

    def _note_run(self, kind: str, workflow: dict[str, Any], at: float) -> None:
        self.status = workflow.get("status") or {}
        self.statuses += 1
        self.largest_status = max(self.largest_status, len(orjson.dumps(self.status)))

    def _note_task(self, kind: str, task: dict[str, Any], at: float) -> None:
        name = task["metadata"]["name"]
        ended = (task.get("status") or {}).get("phase") in _TERMINAL
        self._ended_tasks -= self.tasks.pop(name, False)
        if kind != "DELETED":
            self.tasks[name] = ended
            self._ended_tasks += ended
        self.most_ended_tasks = max(self.most_ended_tasks, self._ended_tasks)

    def _note_pod(self, kind: str, pod: dict[str, Any], at: float) -> None:
        metadata = pod["metadata"]
        self.pods.setdefault(metadata["name"], set()).add(metadata["uid"])
