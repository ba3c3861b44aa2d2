"""Objects of the cluster as watches and lists give them."""

from typing import Any

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import POD, Store
from perdure.domain.records import AGENT_TASK, WORKFLOW

GROUP_VERSION = "perdure.dev/v1alpha1"
AUDIT = RunKey("Workflow", "team", "audit")


def obj(
    name: str,
    version: int,
    *,
    uid: str | None = None,
    labels: dict[str, str] | None = None,
    owner: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "team",
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2024-05-01T12:00:00Z",
    }
    if labels is not None:
        metadata["labels"] = labels
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    made: dict[str, Any] = {"metadata": metadata}
    if spec is not None:
        made["spec"] = spec
    if status is not None:
        made["status"] = status
    return made


def owner(kind: str, name: str, *, group: str = GROUP_VERSION, controller: bool = True) -> dict[str, Any]:
    return {
        "apiVersion": group,
        "kind": kind,
        "name": name,
        "uid": f"uid-{name}",
        "controller": controller,
    }


def workflow(
    version: int = 1, *, name: str = "audit", phase: str | None = None, uid: str | None = None
) -> dict[str, Any]:
    status: dict[str, Any] | None = None
    if phase is not None:
        end = "Complete" if phase == "Succeeded" else "Failed"
        status = {"phase": phase}
        if phase in ("Succeeded", "Failed", "Cancelled"):
            status["conditions"] = [{"type": end, "status": "True"}]
    return obj(name, version, uid=uid, spec={"steps": []}, status=status)


def task(name: str, version: int = 1, *, run: str = "audit", phase: str | None = None) -> dict[str, Any]:
    status = None if phase is None else {"phase": phase}
    return obj(name, version, owner=owner("Workflow", run), status=status)


def pod(
    name: str, version: int = 1, *, run: str = "audit", phase: str = "Running", uid: str | None = None
) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/managed-by": "perdure",
        "perdure.dev/workflow": run,
        "perdure.dev/task": name[:-2],
        "perdure.dev/attempt": name[-1],
    }
    return obj(name, version, uid=uid, labels=labels, status={"phase": phase})


def filled() -> Store:
    """A store that knows a run, its task and its pod, of versions 1 to 3."""
    store = Store()
    store.apply(WORKFLOW, workflow(1))
    store.apply(AGENT_TASK, task("audit-a", 2))
    store.apply(POD, pod("audit-a-1", 3))
    return store
