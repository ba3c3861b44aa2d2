"""Kinds of objects that Perdure uses, and their paths on the API server.

One table, so that a test can compare the paths with the RBAC rules of the chart.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from perdure.api import API_VERSION


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, as API discovery describes it."""

    name: str
    #: `v1` for the core group, else `group/version`.
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        """The path of the API group and version."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"


KINDS: dict[str, Resource] = {
    kind.name: kind
    for kind in (
        Resource("Workflow", API_VERSION, "workflows"),
        Resource("AgentTask", API_VERSION, "agenttasks"),
        Resource("AgentTemplate", API_VERSION, "agenttemplates"),
        Resource("WorkflowTemplate", API_VERSION, "workflowtemplates"),
        Resource("WorkflowSchedule", API_VERSION, "workflowschedules"),
        Resource("Pod", "v1", "pods"),
        Resource("Job", "batch/v1", "jobs"),
        Resource("Lease", "coordination.k8s.io/v1", "leases"),
        Resource("Event", "events.k8s.io/v1", "events"),
        Resource("Namespace", "v1", "namespaces", namespaced=False),
    )
}


def kind_of(name: str) -> Resource:
    """The kind of this name. Raises ValueError for an unknown name."""
    try:
        return KINDS[name]
    except KeyError:
        raise ValueError(f"unknown kind {name!r}; known are {', '.join(KINDS)}") from None


def collection_path(kind: Resource, namespace: str | None) -> str:
    """The path of all objects of a kind, in all namespaces if `namespace` is None."""
    if namespace is None or not kind.namespaced:
        return f"{kind.root}/{kind.plural}"
    return f"{kind.root}/namespaces/{_segment('namespace', namespace)}/{kind.plural}"


def object_path(kind: Resource, namespace: str, name: str) -> str:
    """The path of one object. `namespace` is ignored for cluster-scoped kinds."""
    collection = collection_path(kind, namespace)
    return f"{collection}/{_segment('name', name)}"


def _segment(what: str, text: str) -> str:
    # An empty name would address the collection, and a DELETE of the collection deletes all its objects.
    if text in ("", ".", ".."):
        raise ValueError(f"{what} {text!r} does not name an object")
    return quote(text, safe="")
