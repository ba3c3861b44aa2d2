"""Live runs as the control loop holds them, made by the decisions of the pure core."""

from datetime import datetime
from typing import Any

import orjson
from tests.unit.domain.answering import BODIES, answered
from tests.unit.domain.builders import view_of_task, view_of_workflow
from tests.unit.domain.runs import Run

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.live_run import LiveRun
from perdure.control.status.compute import task_status, workflow_status
from perdure.domain.engine.decide import Decision, decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.payloads import Payload
from perdure.domain.records import TaskKey


class Live(Run):
    """A run, and what the control loop knows of it besides the ledger."""

    def __init__(self, *steps: dict[str, Any], settle: bool = True, **fields: Any) -> None:
        view = view_of_workflow(*steps, **fields) if steps else view_of_task(**fields)
        super().__init__(view)
        self.live = LiveRun(
            key=RunKey(view.run.kind, view.run.namespace, view.run.name), view=view, generation=3
        )
        self.pods: dict[str, PodFacts] = {}
        #: Statuses of child Workflows, by name.
        self.children: dict[str, dict[str, Any]] = {}
        self.before: dict[str, Any] = {}
        self.wants = 0
        if settle:
            self.settle()

    def see(self, key: TaskKey, **facts: Any) -> None:
        """A task's pod as the store has it; nothing is decided about it."""
        pod = self.pod(key, **facts)
        self.pods[pod.name] = pod

    def decide(self, observed: Observed | None = None, *, now: datetime | None = None) -> Decision:
        """One decision, committed. That decisions keep the rules is tested with the pure core."""
        self.now = now or self.now
        decision = decide(self.view, answered(self.view, observed or Observed(), self.now), self.now)
        self.wants = decision.wants
        if decision.commit is not None:
            self._commit(decision.commit)
        return decision

    def settle(self, observed: Observed | None = None, *, now: datetime | None = None) -> None:
        """Decide until a decision starts nothing more; the desired state stays the same."""
        observed = observed or Observed()
        decision = self.decide(observed, now=now)
        while decision.more:
            decision = self.decide(Observed(desired=observed.desired, slots=observed.slots))

    def made(self, *keys: TaskKey) -> None:
        """The objects of open attempts are made, and the ledger knows them."""
        for key in keys:
            attempt = self.view.attempts[key]
            self.view.note_pod(key, f"uid-{attempt.pod_name}")
            self.attempts[key, attempt.number] = self.view.attempts[key]

    def status(self) -> dict[str, Any]:
        """The Workflow's status now, which the next one follows."""
        self.before = completed(
            workflow_status(
                self.live, self.pods, self.before, self.now, children=self.children, wants=self.wants
            )
        )
        return self.before

    def task_status(self, key: TaskKey) -> dict[str, Any]:
        attempt = self.view.attempts.get(key)
        pod = None if attempt is None else self.pods.get(attempt.pod_name)
        return completed(task_status(self.live, key, pod, {}, self.now))


def completed(status: dict[str, Any]) -> dict[str, Any]:
    """The status with bodies that are read from the ledger before it is written."""
    for name in ("output", "outputs"):
        payload = status.get(name)
        if isinstance(payload, Payload):
            status[name] = orjson.loads(payload.body or BODIES[payload.digest])
    return status


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason of every condition."""
    return {
        condition["type"]: (condition["status"], condition["reason"]) for condition in status["conditions"]
    }


def condition(status: dict[str, Any], type: str) -> dict[str, Any]:
    (found,) = [condition for condition in status["conditions"] if condition["type"] == type]
    return dict(found)
