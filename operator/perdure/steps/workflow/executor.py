"""What a `workflow` step does in the cluster: a child Workflow for each attempt."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from perdure.api import API_VERSION
from perdure.api.step import MAX_DESCENDANTS, MAX_WORKFLOW_DEPTH
from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import DEPTH_ANNOTATION
from perdure.control.live_run import LiveRun
from perdure.control.runs.creation import InvalidObject, create_owned, labels_of_task, owner_reference
from perdure.control.runs.deletion import Deletion
from perdure.control.runs.evaluations import evaluated
from perdure.control.runs.executor import ExecutorContext, Findings
from perdure.domain.engine.observed import ChildRun
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.expressions.evaluation import Evaluation
from perdure.domain.names import pod_labels
from perdure.domain.records import WORKFLOW, AttemptRecord, RunRecord, TaskKey, TaskRecord
from perdure.steps.workflow.rules import render_workflow


class WorkflowExecutor:
    """Creates and finds child Workflows; see `control.runs.executor.Executor`.

    A child is never stopped from here: what it is to do follows from the objects above it
    (`control.runs.desired_state`).
    """

    def __init__(self, context: ExecutorContext, field: str) -> None:
        self._store = context.store
        self._kube = context.kube
        self._ledger = context.ledger
        self._evaluator = context.evaluator
        self._field = field

    def noun(self, step: PlannedStep) -> str:
        return "child Workflow"

    async def prune(self, live: LiveRun) -> None:
        """Nothing: the uid of a child is known from its creation on."""

    def is_pending(self, live: LiveRun, attempt: AttemptRecord) -> bool:
        return False

    async def ensure(self, live: LiveRun, task: TaskRecord, attempt: AttemptRecord) -> str | None:
        """The uid of the attempt's Workflow, created if need be.

        The child is not put into the store: the event of its creation is what has it accepted.
        """
        root = self._store.roots.get(live.key)
        claim = await self._ledger.claim_child(
            live.view.run,
            attempt,
            owner_uid=None if root is None else root.owner_uid,
            most=MAX_DESCENDANTS,
        )
        # The annotation can be edited, and can only lower what the ledger allows.
        depth = 1 + max(claim.depth, 0 if root is None else root.depth)
        if depth > MAX_WORKFLOW_DEPTH:
            raise InvalidObject(
                f"this would be a child at depth {depth}, and at most {MAX_WORKFLOW_DEPTH} is allowed; "
                "does a WorkflowTemplate refer to itself?"
            )
        if not claim.granted:
            raise InvalidObject(
                "the first Workflow above this one, and the Workflows below it, have created"
                f" {MAX_DESCENDANTS:,} Workflows, and no more are allowed: let a WorkflowTemplate that refers"
                " to itself come to an end, or let steps do more by themselves"
            )
        spec = await evaluated(self._evaluator, live, partial(child_spec, live, task))
        body = child_manifest(live, task, attempt, spec=spec, depth=depth)
        owner = (live.uid, live.key.name)
        made = await create_owned(self._kube, WORKFLOW, live.key.namespace, body, owner=owner)
        return str(made.obj["metadata"]["uid"])

    async def stop(self, live: LiveRun, attempt: AttemptRecord) -> bool:
        return False

    async def find(
        self,
        live: LiveRun,
        attempts: Sequence[AttemptRecord],
        now: datetime,
        *,
        overdue: set[TaskKey],
        findings: Findings,
    ) -> None:
        """How child Workflows stand, all in one query, if one may have changed."""
        keys = live.view.open if live.agenda.ask_children or live.agenda.full_pass else overdue
        # Before the query, not after: a change that is reported while it runs may not be in its answer.
        live.agenda.ask_children = False
        steps = live.view.plan.steps
        asked = [
            attempt
            for key in sorted(keys)
            if steps[key.step].kind.field == self._field
            and (attempt := live.view.attempts[key]).pod_uid is not None
        ]
        if not asked:
            return
        runs = await self._ledger.outcomes([str(attempt.pod_uid) for attempt in asked])
        for attempt in asked:
            if attempt.pod_uid in runs:
                findings.children[attempt.key] = _child(runs[attempt.pod_uid])
            elif not await self._is_there(live, attempt):
                findings.gone.add(attempt.key)

    async def _is_there(self, live: LiveRun, attempt: AttemptRecord) -> bool:
        """Whether a child that the ledger has not seen exists, so that it will."""
        root = self._store.roots.get(RunKey(WORKFLOW, live.key.namespace, attempt.pod_name))
        if root is not None and root.uid == attempt.pod_uid:
            return True
        there = await self._kube.find(WORKFLOW, live.key.namespace, attempt.pod_name)
        return there is not None and there["metadata"]["uid"] == attempt.pod_uid

    def leftover(self, live: LiveRun, task: TaskRecord) -> Deletion | None:
        attempt = live.view.attempts.get(task.key)
        if attempt is None:
            return None
        root = self._store.roots.get(RunKey(WORKFLOW, live.key.namespace, attempt.pod_name))
        if root is None or root.uid != attempt.pod_uid:
            return None
        return Deletion(WORKFLOW, attempt.pod_name, root.uid)

    def is_idle(self, live: LiveRun, key: TaskKey, leftover: Deletion) -> bool:
        root = self._store.roots.get(RunKey(WORKFLOW, live.key.namespace, leftover.name))
        return root is None or root.finished

    def follower(self, live: LiveRun, attempt: AttemptRecord) -> RunKey | None:
        """The child: once its attempt is closed, it is to be cancelled."""
        return RunKey(WORKFLOW, live.key.namespace, attempt.pod_name)


def child_spec(live: LiveRun, task: TaskRecord, evaluation: Evaluation) -> dict[str, Any]:
    """The spec of a task's child Workflow. Raises ExpressionError and EvaluationPending.

    The child has the parent's priority, which wins over that of a WorkflowTemplate, unless it has none.
    """
    step = live.view.plan.steps[task.key.step]
    spec = render_workflow(step, TaskScope(live.view, step, task.key.index, evaluation).names)
    priority = live.view.plan.settings.priority
    return {"priority": priority, **spec} if priority else spec


def child_manifest(
    live: LiveRun, task: TaskRecord, attempt: AttemptRecord, *, spec: dict[str, Any], depth: int
) -> dict[str, Any]:
    """The Workflow of an attempt. `depth` counts the Workflows above it."""
    return {
        "apiVersion": API_VERSION,
        "kind": WORKFLOW,
        "metadata": {
            "name": attempt.pod_name,
            "labels": pod_labels(labels_of_task(live, task), attempt.number),
            "annotations": {DEPTH_ANNOTATION: str(depth)},
            "ownerReferences": [owner_reference(WORKFLOW, live.key.name, live.uid)],
        },
        "spec": spec,
    }


def _child(run: RunRecord) -> ChildRun:
    return ChildRun(
        uid=run.uid,
        phase=run.phase,
        reason=run.reason,
        message=run.message,
        outputs=run.outputs,
        started_at=run.started_at,
    )
