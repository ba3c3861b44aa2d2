"""Objects for these tests."""

from __future__ import annotations

from typing import Any

AGENT = {"image": "agents/a:1"}


def step(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "agent": AGENT, **fields}


def workflow(
    *steps: dict[str, Any], name: str = "audit", last: list[dict[str, Any]] | None = None, **spec: Any
) -> dict[str, Any]:
    """`last` are its finally steps."""
    if last is not None:
        spec["finally"] = last
    return {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {**spec, "steps": list(steps) or [step()]},
    }


def task(name: str = "single", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {"name": name},
        "spec": {"agent": AGENT, **spec},
    }


def template(name: str = "auditor", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "AgentTemplate",
        "metadata": {"name": name},
        "spec": {"image": "agents/a:1", **spec},
    }


def workflow_template(*steps: dict[str, Any], name: str = "audit", **spec: Any) -> dict[str, Any]:
    return {**workflow(*steps, name=name, **spec), "kind": "WorkflowTemplate"}


def schedule(name: str = "nightly", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "WorkflowSchedule",
        "metadata": {"name": name},
        "spec": {"schedule": "@daily", "workflow": {"spec": {"templateRef": "audit"}}, **spec},
    }
