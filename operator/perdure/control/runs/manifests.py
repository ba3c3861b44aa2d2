"""The objects that an attempt needs, as manifests: AgentTask, Pod or Job, child Workflow.

Everything in them follows from the ledger, so that making one again gives the same object.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from perdure.api import API_VERSION
from perdure.api.workflow import MAX_INPUT_BYTES
from perdure.control.cluster_cache.store import DEPTH_ANNOTATION
from perdure.control.live_run import LiveRun
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.scope import render_agent, render_workflow
from perdure.domain.engine.task_scope import names_of_task
from perdure.domain.expressions.templating import compact
from perdure.domain.names import ANNOTATION_RETENTION, pod_labels, task_labels
from perdure.domain.records import AGENT_TASK, WORKFLOW, AttemptRecord, TaskKey, TaskRecord
from perdure.kube.jobs import build_job
from perdure.kube.pods import PodEnvironment, build_pod

JOB: Final = "Job"


def runs_as_job(live: LiveRun, key: TaskKey) -> bool:
    """True if a task's attempts are Jobs."""
    return bool(live.view.plan.steps[key.step].agent.get("executor") == JOB)


def task_manifest(live: LiveRun, task: TaskRecord) -> dict[str, Any]:
    """The AgentTask of a run's task. People read it; nothing that the run does depends on its spec."""
    step = live.view.plan.steps[task.key.step]
    durations = {
        "timeout": step.timeout,
        "pendingTimeout": step.pending_timeout,
        "idleTimeout": step.idle_timeout,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": AGENT_TASK,
        "metadata": {
            "name": task.name,
            "labels": _labels(live, task),
            "ownerReferences": [_owner(WORKFLOW, live.key.name, live.uid)],
        },
        "spec": {
            "agent": _agent(live, step, task.key),
            # Agents get theirs from the ledger if it is too large for an object.
            **({"input": task.input} if len(compact(task.input)) <= MAX_INPUT_BYTES else {}),
            "retry": {"limit": step.retry_limit},
            "disruptions": {"limit": step.disruption_limit},
            **{name: _duration(value) for name, value in durations.items() if value is not None},
        },
    }


def attempt_manifest(
    live: LiveRun,
    task: TaskRecord,
    attempt: AttemptRecord,
    *,
    owner_uid: str,
    gateway_url: str,
    audience: str,
) -> dict[str, Any]:
    """The Pod or Job of an attempt. `owner_uid` is that of the AgentTask.

    Raises PodTemplateError if the agent's `podTemplate` cannot be merged.
    """
    pod = build_pod(
        task_name=task.name,
        pod_name=attempt.pod_name,
        namespace=live.key.namespace,
        owner=_owner(AGENT_TASK, task.name, owner_uid),
        labels=pod_labels(_labels(live, task), attempt.number),
        agent=_agent(live, live.view.plan.steps[task.key.step], task.key),
        input=task.input,
        env=PodEnvironment(
            gateway_url=gateway_url,
            workflow=live.key.name,
            step=task.key.step,
            attempt=attempt.number,
            index=task.key.index,
            last_failure=task.last_failure,
        ),
        audience=audience,
    )
    if live.view.plan.pod_retention != "Always":
        # Whoever finds the pod after the end of its run has only the pod to know this from.
        pod["metadata"]["annotations"][ANNOTATION_RETENTION] = live.view.plan.pod_retention
    return build_job(pod) if runs_as_job(live, task.key) else pod


def child_manifest(live: LiveRun, task: TaskRecord, attempt: AttemptRecord, *, depth: int) -> dict[str, Any]:
    """The Workflow of a `workflow` step's attempt. `depth` counts the Workflows above it."""
    step = live.view.plan.steps[task.key.step]
    changes = ChangeSet(live.view, live.view.run.created_at)
    return {
        "apiVersion": API_VERSION,
        "kind": WORKFLOW,
        "metadata": {
            "name": attempt.pod_name,
            "labels": pod_labels(_labels(live, task), attempt.number),
            "annotations": {DEPTH_ANNOTATION: str(depth)},
            "ownerReferences": [_owner(WORKFLOW, live.key.name, live.uid)],
        },
        "spec": render_workflow(step, names_of_task(changes, step, task.key.index)),
    }


def _agent(live: LiveRun, step: PlannedStep, key: TaskKey) -> dict[str, Any]:
    changes = ChangeSet(live.view, live.view.run.created_at)
    return render_agent(step, names_of_task(changes, step, key.index))


def _labels(live: LiveRun, task: TaskRecord) -> dict[str, str]:
    workflow = live.key.name if live.key.kind == WORKFLOW else None
    return task_labels(workflow=workflow, task=task.name, key=task.key, uid=live.uid)


def _duration(value: timedelta) -> str:
    milliseconds = max(1, round(value.total_seconds() * 1000))
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def _owner(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
