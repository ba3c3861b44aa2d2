"""The rules of a `workflow` step: an attempt is a child Workflow, whose end is read from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from perdure.api.step import CHILD_PARALLELISM
from perdure.domain.engine.attempt_step import AttemptStep
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.observed import ChildRun
from perdure.domain.engine.outcome import Outcome, outcome_of_child, outcome_of_gone
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_waiting import Waiting
from perdure.domain.engine.step_kind import ClusterView, Counts
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.engine.tasks import check_size
from perdure.domain.expressions.templating import compact, compile_value, render
from perdure.domain.phases import Reason
from perdure.domain.records import AttemptRecord, TaskRecord


class WorkflowRules(AttemptStep):
    """A child pauses with its parent instead of leaving, and nothing of it takes a slot of the parent's."""

    field: ClassVar[str] = "workflow"
    counts: ClassVar[Counts] = Counts(parallelism=True, slot=False, objects=False)
    default_parallelism: ClassVar[int | None] = CHILD_PARALLELISM

    def compile(self, block: Mapping[str, Any]) -> Mapping[str, Any]:
        # The expressions of an inline child are its own: they are compiled when the child starts.
        return {**block, "inputs": compile_value(block.get("inputs") or {})}

    def prepare(
        self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, scope: TaskScope
    ) -> TaskRecord:
        check_size(len(compact(render_workflow(step, scope.names))), "workflow")
        return task

    def started_at(self, changes: ChangeSet, attempt: AttemptRecord) -> datetime | None:
        child = _child_of(changes, attempt)
        if child is None:
            return super().started_at(changes, attempt)
        return changes.now if child.started_at is not None or child.phase.terminal else None

    def outcome(self, changes: ChangeSet, step: PlannedStep, attempt: AttemptRecord) -> Outcome | None:
        child = _child_of(changes, attempt)
        if child is not None:
            return outcome_of_child(child, attempt.pod_name)
        return super().outcome(changes, step, attempt)

    def gone(self, attempt: AttemptRecord) -> Outcome:
        return outcome_of_gone(attempt.pod_name)

    def pause(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord) -> None:
        # A child in the cluster is paused as well, and goes on with its parent.
        if changes.open_attempt(task.key) is None:
            super().pause(changes, step, task)

    def resume(self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, lost: timedelta) -> None:
        attempt = changes.open_attempt(task.key)
        if attempt is None:
            super().resume(changes, step, task, lost)
        elif attempt.started_at is not None:
            # Its clock stood still. Its start may have been observed after the pause had begun.
            stood = changes.now - max(attempt.started_at, changes.now - lost)
            changes.put_attempt(replace(attempt, started_at=attempt.started_at + stood))

    def attempt_waiting(self, attempt: AttemptRecord, cluster: ClusterView) -> Waiting | None:
        return Reason.STARTING, self.activity(attempt, cluster) or f"{attempt.pod_name} is being started"

    def activity(self, attempt: AttemptRecord | None, cluster: ClusterView) -> str:
        """How far the child is, as its status says; empty if that is not known."""
        status = {} if attempt is None else cluster.children.get(attempt.pod_name) or {}
        if attempt is None or not status.get("phase"):
            return ""
        text = f"{attempt.pod_name}: {status['phase']}"
        if status.get("progress"):
            text += f" {status['progress']}"
        return f"{text}: {status['message']}" if status.get("message") else text


def render_workflow(step: PlannedStep, names: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the child of a step, its inputs filled in. Raises ExpressionError."""
    inputs = render(step.block["inputs"], names, "workflow.inputs")
    if "templateRef" in step.block:
        return {"templateRef": step.block["templateRef"], "inputs": inputs}
    return {**step.block["spec"], "inputs": inputs}


def _child_of(changes: ChangeSet, attempt: AttemptRecord) -> ChildRun | None:
    """What was observed of the attempt's own child; one of an earlier object of the name is none."""
    child = changes.observed.children.get(attempt.key)
    return child if child is not None and child.uid == attempt.pod_uid else None
