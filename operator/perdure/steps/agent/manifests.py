"""The objects of an agent's task as manifests: its AgentTask, and the Pod or Job of an attempt.

Everything in them follows from the ledger, so that a manifest rendered again is the same object.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson

from perdure.api import API_VERSION
from perdure.control.live_run import LiveRun
from perdure.control.runs.creation import labels_of_task, owner_reference
from perdure.control.runs.deletion import JOB
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.expressions.evaluation import Evaluation
from perdure.domain.names import ANNOTATION_CONTROLLED, ANNOTATION_RETENTION, pod_labels
from perdure.domain.records import AGENT_TASK, WORKFLOW, AttemptRecord, TaskKey, TaskRecord
from perdure.kube.jobs import build_job
from perdure.kube.pods import PodEnvironment, build_pod
from perdure.steps.agent.arguments import displayed
from perdure.steps.agent.rules import render_agent


def is_job(step: PlannedStep) -> bool:
    """True if the attempts of a step are Jobs."""
    return bool(step.block.get("executor") == JOB)


def runs_as_job(live: LiveRun, key: TaskKey) -> bool:
    """True if a task's attempts are Jobs."""
    return is_job(live.view.plan.steps[key.step])


def agent_block(live: LiveRun, task: TaskRecord, evaluation: Evaluation) -> dict[str, Any]:
    """The agent block of a task, rendered. Raises ExpressionError and EvaluationPending."""
    step = live.view.plan.steps[task.key.step]
    return render_agent(step, TaskScope(live.view, step, task.key.index, evaluation).names)


def task_manifest(
    live: LiveRun, task: TaskRecord, agent: dict[str, Any], input: bytes | None
) -> dict[str, Any]:
    """The AgentTask of a run's task. People read it; nothing that the run does depends on its spec.

    `input` is compact JSON, or None for one that is too large for an object.
    """
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
            "labels": labels_of_task(live, task),
            "annotations": {
                ANNOTATION_CONTROLLED: f"by Workflow {live.key.name}: its desiredState and retention hold"
            },
            "ownerReferences": [owner_reference(WORKFLOW, live.key.name, live.uid)],
        },
        "spec": {
            "agent": displayed(agent),
            # Agents get theirs from the ledger if it is too large for an object.
            **({} if input is None else {"input": orjson.loads(input)}),
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
    agent: dict[str, Any],
    input: bytes | None,
    owner_uid: str,
    gateway_url: str,
    gateway_ca: str | None,
    audience: str,
) -> dict[str, Any]:
    """The Pod or Job of an attempt. `owner_uid` is that of the AgentTask; for `input` see `task_manifest`.

    Raises PodTemplateError if the agent's `podTemplate` cannot be merged.
    """
    pod = build_pod(
        task_name=task.name,
        pod_name=attempt.pod_name,
        namespace=live.key.namespace,
        owner=owner_reference(AGENT_TASK, task.name, owner_uid),
        labels=pod_labels(labels_of_task(live, task), attempt.number),
        agent=agent,
        input=input,
        env=PodEnvironment(
            gateway_url=gateway_url,
            gateway_ca=gateway_ca,
            workflow=live.key.name,
            step=task.key.step,
            attempt=attempt.number,
            index=task.key.index,
            last_failure=task.last_failure,
        ),
        audience=audience,
    )
    if live.view.plan.pod_retention != "Always":
        # After the end of the run, the pod is the only place from which its retention is known.
        pod["metadata"]["annotations"][ANNOTATION_RETENTION] = live.view.plan.pod_retention
    return build_job(pod) if runs_as_job(live, task.key) else pod


def _duration(value: timedelta) -> str:
    milliseconds = max(1, round(value.total_seconds() * 1000))
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"
