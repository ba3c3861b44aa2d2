"""Pods as the API server gives them, with as much of a status as a case needs."""

from typing import Any

NOW = "2024-05-01T12:00:00Z"


def pod(
    *,
    phase: str = "Running",
    reason: str | None = None,
    message: str | None = None,
    state: dict[str, Any] | None = None,
    conditions: list[dict[str, Any]] | None = None,
    deletion: str | None = None,
    labels: dict[str, str] | None = None,
    extra_statuses: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "audit-a-x7k2q-1",
        "namespace": "team",
        "uid": "pod-1",
        "labels": {
            "app.kubernetes.io/managed-by": "perdure",
            "perdure.dev/task": "audit-a-x7k2q",
            "perdure.dev/attempt": "1",
        }
        if labels is None
        else labels,
        "ownerReferences": [
            {"kind": "Other", "uid": "other"},
            {"kind": "AgentTask", "uid": "task-1", "controller": True},
        ],
    }
    if deletion is not None:
        metadata["deletionTimestamp"] = deletion
    status: dict[str, Any] = {"phase": phase}
    if reason is not None:
        status["reason"] = reason
    if message is not None:
        status["message"] = message
    if conditions is not None:
        status["conditions"] = conditions
    statuses = list(extra_statuses or ())
    if state is not None:
        statuses.append({"name": "agent", "state": state})
    if statuses:
        status["containerStatuses"] = statuses
    return {"metadata": metadata, "spec": {}, "status": status}


def ended(code: int, *, reason: str | None = None, message: str | None = None) -> dict[str, Any]:
    """The state of a container that ended."""
    terminated: dict[str, Any] = {
        "exitCode": code,
        "reason": reason if reason is not None else ("Completed" if code == 0 else "Error"),
        "startedAt": NOW,
        "finishedAt": NOW,
    }
    if message is not None:
        terminated["message"] = message
    return {"terminated": terminated}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def condition(type: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": type, "status": status, "reason": reason, "message": message}
